"""Runs with every optimizer: stopped and resumed, and evaluated, kept and exported at the point that is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Tiny
from run_helpers import Recorder, curve, interrupt_at, same_weights
from safetensors.torch import load_file

from archlab import ArchlabError, load_model
from archlab.config.registry import names
from archlab.config.train_config import TrainConfig
from archlab.inference.evaluate import eval_options, evaluate
from archlab.storage.checkpoint import checkpoints
from archlab.training.trainer import train

AVERAGE = ["train.optimizer=schedule_free", "train.schedule=constant"]


class Killed(Exception):
    """What ends a run without a last checkpoint."""


def kill(record: dict[str, float]) -> None:
    if record["step"] == 8:
        raise Killed


@pytest.mark.slow
@pytest.mark.parametrize("name", names("optimizer"))
def test_a_killed_run_continues_bit_for_bit(name: str, tiny: Tiny, tmp_path: Path) -> None:
    experiment, run = tiny(f"train.optimizer={name}", "train.groups=[{role: input, lr_scale: 0.5}]"), tmp_path / "run"
    train(experiment, tmp_path / "whole")
    for at in (kill, interrupt_at(11)):
        with pytest.raises((Killed, KeyboardInterrupt)):
            train(experiment, run, resume=run.exists(), callbacks=[Recorder(at)])
    watch = Recorder()
    train(experiment, run, resume=True, callbacks=[watch])
    assert watch.starts == [11]
    assert curve(run) == curve(tmp_path / "whole")
    assert same_weights(run, tmp_path / "whole")
    for name in ("model.safetensors", "optimizer.safetensors"):
        mine, its = (load_file(checkpoints(at / "checkpoints")[12] / name) for at in (run, tmp_path / "whole"))
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in mine)


@pytest.mark.slow
def test_the_average_is_evaluated_kept_and_loaded(tiny: Tiny, tmp_path: Path) -> None:
    experiment, run = tiny(*AVERAGE, "train.checkpoint_every=4", "train.keep_checkpoints=9"), tmp_path / "run"
    train(experiment, run)
    task = experiment.task.factory()()
    losses = {record["step"]: record["val_loss"] for record in curve(run) if "val_loss" in record}
    model = load_model(run)
    for step, folder in checkpoints(run / "checkpoints").items():
        weights, state = (load_file(folder / f"{kind}.safetensors") for kind in ("model", "optimizer"))
        model.load_state_dict(weights, strict=False)
        options = eval_options(experiment.train)
        found = evaluate(model, task, "validation", max_tokens=experiment.train.eval_tokens, **options)
        assert found.metrics["loss"] == losses[step]
        # The model was trained at y = beta1 x + (1 - beta1) z, which the optimizer has kept.
        for name, average in weights.items():
            if f"z.{name}" in state:
                y = 0.9 * average.double() + 0.1 * state[f"z.{name}"].double()
                torch.testing.assert_close(state[f"trained.{name}"].double(), y, rtol=0, atol=1e-6)
    last = load_file(checkpoints(run / "checkpoints")[12] / "model.safetensors")
    final = load_file(run / "final/model.safetensors")
    assert all(torch.equal(last[name], final[name]) for name in final)


@pytest.mark.slow
def test_a_longer_run_continues_where_an_average_was_kept(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny(*AVERAGE, "train.steps=16"), tmp_path / "whole")
    train(tiny(*AVERAGE), tmp_path / "first")
    start = f"train.start_from={{checkpoint: {tmp_path / 'first'}, load: everything}}"
    train(tiny(*AVERAGE, "train.steps=16", start), tmp_path / "second")
    assert same_weights(tmp_path / "second", tmp_path / "whole")


@pytest.mark.slow
def test_another_optimizer_does_not_go_on(tiny: Tiny, tmp_path: Path) -> None:
    train(tiny("train.optimizer=lion"), tmp_path / "run")
    for other, message in (
        ("train.optimizer={type: lion, beta1: 0.5}", "train.optimizer.beta1 is 0.9 there and 0.5 here"),
        ("train.optimizer=adamw", "train.optimizer is "),
    ):
        with pytest.raises(ArchlabError, match=message):
            train(tiny(other), tmp_path / "run", resume=True)


def test_what_was_written_before_there_was_a_choice_reads_the_same(tiny: Tiny) -> None:
    assert "optimizer" not in tiny().resolved["train"]
    assert tiny("train.optimizer=adamw").resolved == tiny().resolved
    assert TrainConfig().optimizer_name == "adamw"
