from __future__ import annotations

import math
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from safetensors.torch import load_file

from archlab import ArchlabError, ConfigError, TrainingError
from archlab.config.experiment import Experiment, load
from archlab.runtime import memory
from archlab.runtime.signals import defer_keyboard_interrupt
from archlab.storage import checkpoint
from archlab.training import metrics
from archlab.training.callbacks import Callback
from archlab.training.trainer import train

KILLED = """
import os, signal, sys
from pathlib import Path
from archlab.config.experiment import load
from archlab.training.callbacks import Callback
from archlab.training.trainer import train

class Killer(Callback):
    def on_step(self, record):
        if record["step"] == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

train(load(sys.argv[1]), Path(sys.argv[2]), callbacks=[Killer()])
"""


class Recorder(Callback):
    """Keeps what it sees, and calls `at` with each record of an update."""

    def __init__(self, at: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
        self.starts: list[int] = []
        self.steps: list[dict[str, Any]] = []
        self.evals: list[dict[str, Any]] = []
        self.at = at

    def on_start(self, experiment: Experiment, step: int) -> None:
        self.starts.append(step)

    def on_step(self, record: dict[str, Any]) -> None:
        self.steps.append(record)
        self.at(record)

    def on_eval(self, record: dict[str, Any]) -> None:
        self.evals.append(record)


def interrupt_at(step: int) -> Callable[[dict[str, Any]], None]:
    def at(record: dict[str, Any]) -> None:
        if record["step"] == step:
            raise KeyboardInterrupt

    return at


def curve(folder: Path) -> list[dict[str, Any]]:
    """Return a run's records without what depends on the clock."""
    return [{k: v for k, v in record.items() if k != "tokens_per_s"} for record in metrics.read(folder)]


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "final/model.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(experiment: Experiment, folder: Path) -> list[float]:
    train(experiment, folder)
    return [record["loss"] for record in curve(folder) if "loss" in record]


@pytest.fixture
def whole(tiny: Tiny, tmp_path: Path) -> Path:
    """A run that nothing disturbed."""
    train(tiny(), tmp_path / "whole")
    return tmp_path / "whole"


def test_what_a_run_leaves_behind(tiny: Tiny, tmp_path: Path) -> None:
    watch = Recorder()
    result = train(tiny("train.tensorboard=true"), tmp_path / "run", callbacks=[watch])
    records = curve(result.folder)
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 13))
    assert [r["step"] for r in records if "val_loss" in r] == [4, 8, 12]
    assert records[-1]["val_bpb"] == pytest.approx(records[-1]["val_loss"] / math.log(2))
    assert [r["tokens"] for r in records if "tokens" in r] == [64 * step for step in range(1, 13)]
    assert records[0]["loss"] == pytest.approx(math.log(256), abs=1)
    assert records[-1]["val_loss"] < math.log(256) - 1, "it learns"
    assert result.metrics["val_loss"] == records[-1]["val_loss"]
    assert watch.starts == [0]
    assert [r["loss"] for r in watch.steps] == [r["loss"] for r in records if "loss" in r]
    assert [r["val_loss"] for r in watch.evals] == [r["val_loss"] for r in records if "val_loss" in r]
    assert sorted(path.name for path in (result.folder / "checkpoints").iterdir()) == ["step_00000009", "step_00000012"]
    assert list((result.folder / "tensorboard").iterdir())
    assert not [path for path in result.folder.rglob("*") if "partial" in path.name]
    checkpoint.verify(result.folder / "final")
    assert load(result.folder / "experiment.yaml").resolved == tiny("train.tensorboard=true").resolved


@pytest.mark.slow
def test_the_same_seed_is_the_same_run_and_another_is_not(tiny: Tiny, tmp_path: Path, whole: Path) -> None:
    train(tiny(), tmp_path / "again")
    assert curve(tmp_path / "again") == curve(whole)
    assert same_weights(tmp_path / "again", whole)
    train(tiny("train.seed=1"), tmp_path / "other")
    assert curve(tmp_path / "other") != curve(whole)


def test_what_is_kept_now_and_then(tiny: Tiny, tmp_path: Path) -> None:
    rare = ["train.log_every=5", "train.eval_every=0", "train.checkpoint_every=0"]
    train(tiny(*rare), tmp_path / "run")
    assert [(r["step"], "loss" in r) for r in curve(tmp_path / "run")] == [
        (5, True),
        (10, True),
        (12, True),
        (12, False),
    ]
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step_00000012"]


@pytest.mark.slow
def test_accumulation_is_a_bigger_batch(tiny: Tiny, tmp_path: Path) -> None:
    exact = ["model.layers[0].dropout=0", "train.steps=5"]
    big = losses(tiny(*exact, "train.batch_size=4"), tmp_path / "big")
    small = losses(tiny(*exact, "train.batch_size=1", "train.accumulate=4"), tmp_path / "small")
    assert small == pytest.approx(big, rel=1e-4)


@pytest.mark.slow
def test_recomputing_activations_changes_no_loss(tiny: Tiny, tmp_path: Path, whole: Path) -> None:
    recomputed = losses(tiny("train.checkpoint_activations=true"), tmp_path / "run")
    assert recomputed == [r["loss"] for r in curve(whole) if "loss" in r]
    assert same_weights(tmp_path / "run", whole)


def test_bfloat16(tiny: Tiny, tmp_path: Path, whole: Path) -> None:
    low = losses(tiny("train.precision=bfloat16"), tmp_path / "run")
    high = [r["loss"] for r in curve(whole) if "loss" in r]
    assert low != high
    assert low == pytest.approx(high, rel=0.05)
    assert all(t.dtype == torch.float32 for t in load_file(tmp_path / "run/final/model.safetensors").values())


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_run_goes_on_bit_for_bit(
    damaged: bool, tiny: Tiny, tiny_file: Path, tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, step = tmp_path / "run", random.Random(damaged).randint(7, 11)
    killed = subprocess.run([sys.executable, "-c", KILLED, tiny_file, run, str(step)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    newest = checkpoint.latest_checkpoint(run / "checkpoints")
    assert newest is not None
    assert not (run / "final").exists()
    if damaged:
        (newest / "optimizer.safetensors").write_bytes(b"torn")
    watch = Recorder()
    train(tiny(), run, resume=True, callbacks=[watch])
    last = (step - 1) // 3 * 3
    assert watch.starts == [last - 3 if damaged else last], f"killed at step {step}"
    assert ("damaged checkpoint skipped" in caplog.text) == damaged
    assert curve(run) == curve(whole)
    assert same_weights(run, whole)
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4, 7, 12])
def test_ctrl_c_keeps_what_was_done(step: int, tiny: Tiny, tmp_path: Path, whole: Path) -> None:
    run, rare = tmp_path / "run", ["train.checkpoint_every=0"]
    train(tiny(*rare), tmp_path / "rare")
    with pytest.raises(KeyboardInterrupt):
        train(tiny(*rare), run, callbacks=[Recorder(interrupt_at(step))])
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step_{step:08d}"]
    watch = Recorder()
    train(tiny(*rare), run, resume=True, callbacks=[watch])
    assert watch.starts == [step]
    assert curve(run) == curve(whole), "the evaluation that was due at that step is made up for"
    assert same_weights(run, tmp_path / "rare")


@pytest.mark.slow
def test_ctrl_c_does_not_cut_an_update_in_half(
    tiny: Tiny, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = torch.optim.AdamW.step, []

    def interrupted(self: Any, *args: Any) -> Any:
        calls.append(step(self, *args))
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "run")
    assert len(calls) == 5
    train(tiny(), tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(whole)
    assert same_weights(tmp_path / "run", whole)


def test_held_back_until_the_end_of_a_block() -> None:
    reached = []

    def work() -> None:
        with defer_keyboard_interrupt():
            signal.raise_signal(signal.SIGINT)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_ones_own_stays() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        with defer_keyboard_interrupt():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == [signal.SIGINT]


def test_a_finished_run_has_nothing_left_to_do(tiny: Tiny, whole: Path) -> None:
    before, watch = curve(whole), Recorder()
    result = train(tiny(), whole, resume=True, callbacks=[watch])
    assert watch.starts == [12]
    assert watch.steps == []
    assert curve(whole) == before
    assert result.metrics["val_loss"] == before[-1]["val_loss"]


@pytest.mark.slow
def test_resuming_what_never_began(tiny: Tiny, tmp_path: Path, whole: Path) -> None:
    train(tiny(), tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(whole)
    shutil.rmtree(tmp_path / "run/checkpoints")
    train(tiny(), tmp_path / "run", resume=True)
    assert curve(tmp_path / "run") == curve(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr=0.5", "train.lr is 0.01 there and 0.5 here"),
        ("model.dim=64", "model.dim is 32 there and 64 here"),
        ("model.layers[0].mixer.ema=cema", r"model\.layers\[0\]\.mixer\.ema\.type is 'ema' there and 'cema' here"),
        ("train.precision=bfloat16", "train.precision is 'float32' there and 'bfloat16' here"),
    ],
)
def test_another_experiment_does_not_go_on(override: str, message: str, tiny: Tiny, whole: Path) -> None:
    before = curve(whole)
    with pytest.raises(ArchlabError, match=f"experiment.yaml: {message}; name another directory"):
        train(tiny(override), whole, resume=True)
    assert curve(whole) == before


@pytest.mark.slow
def test_auto_is_decided_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = ["train.precision=auto", "train.device=cpu", "train.compile=auto", "train.steps=2"]
    monkeypatch.setattr("archlab.training.step.resolve_precision", lambda precision, device: "bfloat16")
    train(tiny(*free), tmp_path / "run")
    decided = load(tmp_path / "run/experiment.yaml").train
    assert (decided.precision, decided.compile) == ("bfloat16", "off")
    monkeypatch.undo()
    train(tiny(*free), tmp_path / "run", resume=True)
    assert load(tmp_path / "run/experiment.yaml").train == decided


@pytest.mark.slow
def test_nothing_is_overwritten_unless_forced(tiny: Tiny, tmp_path: Path, whole: Path) -> None:
    before = curve(whole)
    with pytest.raises(ArchlabError, match="whole: holds a run; continue it with --resume, or start over with --force"):
        train(tiny(), whole)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    with pytest.raises(ArchlabError, match="mine: is not empty"):
        train(tiny(), tmp_path / "mine", resume=True)
    assert curve(whole) == before
    train(tiny("train.steps=4"), whole, force=True)
    assert [r["step"] for r in curve(whole)] == [1, 2, 3, 4, 4]
    assert [path.name for path in (whole / "checkpoints").iterdir()] == ["step_00000003", "step_00000004"]


@pytest.mark.slow
def test_a_forced_run_that_breaks_off_leaves_no_older_model(tiny: Tiny, whole: Path) -> None:
    with pytest.raises(TrainingError):
        train(tiny("train.lr=1e30", "train.clip=null"), whole, force=True)
    assert not (whole / "final").exists()
    assert checkpoint.latest_checkpoint(whole / "checkpoints") is None


@pytest.mark.slow
def test_metrics_that_a_checkpoint_does_not_know_are_refused(
    tiny: Tiny, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, before = whole / "metrics.jsonl", curve(whole)
    content = file.read_bytes()
    file.write_bytes(content + b'{"step": 12, "val_loss": 1.0}\n\0\0\n')
    train(tiny(), whole, resume=True)
    assert curve(whole)[:-1] == before, "torn lines after the checkpoint are dropped"
    for damaged, words in (
        (content[: content.index(b'"step": 9')], "ends after step 8, and the checkpoint of step 12 .*; restore it, or"),
        (content.replace(b'"lr": 0.01', b'"lr": 0.02'), "was changed, and the checkpoint of step 12"),
        (content.replace(b"{", b"[", 1), r"metrics\.jsonl:1: not a record"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(ArchlabError, match=words):
            train(tiny(), whole, resume=True)
        assert file.read_bytes() == damaged
    file.unlink()
    train(tiny(), whole, resume=True)
    assert "metrics.jsonl: is missing; the run goes on without the records up to step 12" in caplog.text
    assert [r["step"] for r in curve(whole)] == [12]


@pytest.mark.slow
def test_no_other_process_writes_beside_a_live_run(tiny: Tiny, tmp_path: Path) -> None:
    refused: list[str] = []

    def beside(_: Any) -> None:
        for flags in ({"force": True}, {"resume": True}):
            with pytest.raises(ArchlabError) as caught:
                train(tiny("train.steps=2"), tmp_path / "run", **flags)
            refused.append(str(caught.value))

    train(tiny("train.steps=2"), tmp_path / "run", callbacks=[Recorder(beside)])
    assert len(refused) == 4
    assert all("run: another process trains here" in message for message in refused)
    checkpoint.verify(tmp_path / "run/final")


@pytest.mark.slow
def test_a_run_whose_folder_begins_anew_does_not_write_to_it(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def take_over(record: dict[str, Any]) -> None:
        if record["step"] == 1:
            shutil.rmtree(run)
            train(tiny("train.steps=1", "train.seed=1"), run)

    with pytest.raises(ArchlabError, match="run: was removed or replaced while this run trained"):
        train(tiny("train.steps=2"), run, callbacks=[Recorder(take_over)])
    assert load(run / "experiment.yaml").train.seed == 1
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000001"]


def test_a_loss_that_is_no_number_ends_the_run(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"^step \d+: the (loss|gradient's norm) is (nan|inf); try a smaller"
    ) as caught:
        train(tiny("train.lr=1e30", "train.warmup=0", "train.clip=null"), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert all(math.isfinite(r["loss"]) for r in curve(tmp_path / "run") if "loss" in r)


def test_too_large_a_step_is_refused_before_anything_is_made(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArchlabError, match=r"a training step needs about .* try a smaller train\.batch_size"):
        train(tiny("train.batch_size=10000000"), tmp_path / "run")
    monkeypatch.setattr(memory, "available_memory", lambda device: 1000)
    with pytest.raises(ArchlabError, match="and cpu has 1 kB free"):
        train(tiny(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("task.path=/no/such/text", ArchlabError, "/no/such/text: no such file or folder"),
        ("train.context=300", ArchlabError, "the validation split has 256 bytes"),
        ("model.vocab_size=100", ConfigError, "100 is less than the 256 tokens"),
    ],
)
def test_what_cannot_be_trained_makes_no_folder(
    override: str, error: type[Exception], message: str, tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        train(tiny(override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.device: no CUDA device is available; use cpu or auto"):
        train(tiny("train.device=cuda"), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{}", "train: 3", "a: [", ""])
def test_a_damaged_experiment_file_is_named(content: str, tiny: Tiny, whole: Path) -> None:
    (whole / "experiment.yaml").write_text(content)
    with pytest.raises(ArchlabError, match=r"experiment\.yaml: "):
        train(tiny("train.precision=auto"), whole, resume=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_stop_keeps_what_was_done(number: int, tiny: Tiny, tmp_path: Path) -> None:
    watch = Recorder(lambda record: signal.raise_signal(number) if record["step"] == 2 else None)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(tiny("train.checkpoint_every=0"), tmp_path / "run", callbacks=[watch])
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step_00000002"]
    assert caught.value.__notes__ == [f"{tmp_path / 'run'}: a checkpoint of step 2 is saved"]


def test_a_second_signal_ends_at_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, begun = checkpoint.write_tensors, []

    def slow(*arguments: Any) -> None:
        begun.append(save(*arguments))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(checkpoint, "write_tensors", slow)
    watch = Recorder(lambda record: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train(tiny("train.checkpoint_every=0"), tmp_path / "run", callbacks=[watch])
    assert len(begun) == 1
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


def test_a_reader_that_has_left_costs_nothing(tiny: Tiny, tmp_path: Path) -> None:
    def leave(record: dict[str, Any]) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        train(tiny("train.checkpoint_every=0"), tmp_path / "run", callbacks=[Recorder(leave)])
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step_00000001"]
