from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from run_helpers import Recorder, curve

from archlab import ArchlabError, ConfigError, TrainingError
from archlab.config.experiment import load
from archlab.runtime import memory
from archlab.storage import checkpoint
from archlab.training.trainer import train


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.device: no CUDA device is available; use cpu or auto"):
        train(tiny("train.device=cuda"), tmp_path / "run")
