"""The results of a ladder's runs, as their directories have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError
from archlab.searching.ladder.results import read_failure, read_loss, write_failure
from archlab.searching.ladder.runs import LadderRun


def run_of(folder: Path, experiment: Experiment) -> LadderRun:
    return LadderRun(1, "a", 0, 1.0, experiment, folder)


def finish(run: LadderRun, experiment: Experiment, metrics: str = '{"step": 12, "val_loss": 2.5}\n') -> None:
    """Write what a run leaves that has ended on another machine: its experiment and its metrics."""
    run.folder.mkdir()
    (run.folder / "experiment.yaml").write_text(experiment.to_yaml())
    (run.folder / "metrics.jsonl").write_text(metrics)


def test_a_run_of_this_machine_has_ended_when_its_model_is_there(tmp_path: Path, tiny: Tiny) -> None:
    run = run_of(tmp_path / "run", tiny())
    assert read_loss(run, "val_loss") is None
    finish(run, tiny())
    assert read_loss(run, "val_loss") == 2.5  # of another machine, from where no model comes back
    (run.folder / "lock").touch()
    assert read_loss(run, "val_loss") is None  # killed between its last evaluation and its model
    (run.folder / "final").mkdir()
    assert read_loss(run, "val_loss") == 2.5


@pytest.mark.parametrize("metrics", ["", '{"step": 11, "val_loss": 2.5}\n', '{"step": 12, "val_loss": null}\n'])
def test_a_run_without_a_loss_at_its_end_has_none(tmp_path: Path, tiny: Tiny, metrics: str) -> None:
    run = run_of(tmp_path / "run", tiny())
    finish(run, tiny(), metrics)
    assert read_loss(run, "val_loss") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["train.batch_size=1", "train.accumulate=2"], ""),  # as many sequences an update, on a smaller machine
        (["train.precision=bfloat16", "train.log_every=3"], ""),
        (["train.batch_size=4"], "experiment.yaml: has 4 sequences an update, not the 2 of rung 1: a seed 0"),
        (["train.lr=0.5"], "is not the experiment of rung 1: a seed 0: train.lr"),
    ],
)
def test_a_run_that_comes_back_is_of_the_same_experiment(
    tmp_path: Path, tiny: Tiny, change: list[str], message: str
) -> None:
    run = run_of(tmp_path / "run", tiny())
    finish(run, tiny(*change))
    if not message:
        assert read_loss(run, "val_loss") == 2.5
        return
    with pytest.raises(ArchlabError, match=message):
        read_loss(run, "val_loss")


@pytest.mark.parametrize("text", ["{}", '{"reason": ""}', '{"reason": 3}'])
def test_a_failure_without_its_reason_is_damaged(tmp_path: Path, tiny: Tiny, text: str) -> None:
    run: Any = run_of(tmp_path / "run", tiny())
    assert read_failure(run) == ""
    write_failure(run, "step 3: the loss is nan")
    assert read_failure(run) == "step 3: the loss is nan"
    (run.folder / "result.json").write_text(text)
    with pytest.raises(ArchlabError, match=r"result.json: has no reason"):
        read_failure(run)
