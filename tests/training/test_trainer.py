from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from run_helpers import Recorder, curve, losses, same_weights
from safetensors.torch import load_file

from archlab import TrainingError
from archlab.config.experiment import load
from archlab.storage import checkpoint
from archlab.training.trainer import train


@pytest.mark.slow
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


@pytest.mark.slow
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
@pytest.mark.parametrize("kind", ["true", "selective"])
def test_recomputing_activations_changes_no_loss(kind: str, tiny: Tiny, tmp_path: Path, whole: Path) -> None:
    recomputed = losses(tiny(f"train.checkpoint_activations={kind}"), tmp_path / "run")
    assert recomputed == [r["loss"] for r in curve(whole) if "loss" in r]
    assert same_weights(tmp_path / "run", whole)


@pytest.mark.slow
def test_bfloat16(tiny: Tiny, tmp_path: Path, whole: Path) -> None:
    low = losses(tiny("train.precision=bfloat16"), tmp_path / "run")
    high = [r["loss"] for r in curve(whole) if "loss" in r]
    assert low != high
    assert low == pytest.approx(high, rel=0.05)
    assert all(t.dtype == torch.float32 for t in load_file(tmp_path / "run/final/model.safetensors").values())


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"^step \d+: the (loss|gradient's norm) is (nan|inf); try a smaller"
    ) as caught:
        train(tiny("train.lr=1e30", "train.warmup=0", "train.clip=null"), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert all(math.isfinite(r["loss"]) for r in curve(tmp_path / "run") if "loss" in r)


@pytest.mark.slow
def test_a_validation_loss_that_is_no_number_ends_the_run(tiny: Tiny, tmp_path: Path) -> None:
    exploding = ["train.lr=1e30", "train.warmup=0", "train.clip=null", "train.eval_every=1", "train.steps=2"]
    with pytest.raises(TrainingError, match=r"^step 1: the validation loss is (nan|inf); try a smaller train\.lr$"):
        train(tiny(*exploding), tmp_path / "run")
    assert [record["step"] for record in curve(tmp_path / "run")] == [1]
    assert not (tmp_path / "run/final").exists()


def test_a_reader_that_has_left_costs_nothing(tiny: Tiny, tmp_path: Path) -> None:
    def leave(record: dict[str, Any]) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        train(tiny("train.checkpoint_every=0"), tmp_path / "run", callbacks=[Recorder(leave)])
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step_00000001"]
