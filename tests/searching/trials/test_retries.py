"""What the machine or the user ends is left open, and continues from its last checkpoint."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy.exc
import torch
from search_helpers import pretend, replace_training, search, trials_of, write_space

from archlab import Callback, MachineError, SearchCallback
from archlab.config.experiment import Experiment
from archlab.searching.study import study
from archlab.searching.study.search_dir import STUDY_LOCK
from archlab.searching.study.study import is_interrupted
from archlab.searching.trials import retries
from archlab.storage.locks import lock

NO_PRUNING = {"pruner": "none"}
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace training by one that takes no time, whose loss may raise."""
    return lambda loss: replace_training(monkeypatch, pretend(loss=loss))


@pytest.fixture
def one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a single death of a trial's own doing be its last."""
    monkeypatch.setattr(study, "MAX_ATTEMPTS", 1)


def failing(*errors: BaseException | None) -> Any:
    """Return a loss that raises each error in turn, one per trial; the baseline trains."""
    left: Iterator[BaseException | None] = iter(errors)

    def loss(experiment: Experiment) -> float:
        if experiment.train.lr != 0.01 and (error := next(left, None)) is not None:
            raise error
        return 1.0

    return loss


@pytest.mark.slow
def test_a_failure_of_the_machine_burns_no_trial(tmp_path: Path, fake: Any, one_attempt: None) -> None:
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    away = sqlalchemy.exc.OperationalError("", {}, Exception())
    fake(failing(FULL, away))
    for error in (FULL, away):
        with pytest.raises(MachineError) as caught:
            search(file, folder, trials=1)
        assert caught.value.__cause__ is error
    result = search(file, folder, trials=1)
    assert result.summary.trials == {"complete": 1}
    *stopped, last = trials_of(folder)
    assert [is_interrupted(trial) for trial in stopped] == [True, True]
    assert {trial.params["train.lr"] for trial in stopped} == {last.params["train.lr"]}


@pytest.mark.slow
def test_a_database_that_is_away_burns_no_trial(
    tmp_path: Path, fake: Any, one_attempt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    away = optuna.exceptions.StorageInternalError("An exception is raised during the commit")

    def refuse(*_: object, **__: object) -> None:
        raise away

    fake(failing(away))
    mark_interrupted = retries.mark_interrupted
    monkeypatch.setattr(retries, "mark_interrupted", refuse)  # nor can the trial be closed
    with pytest.raises(MachineError, match="StorageInternalError: An exception is raised"):
        search(file, folder, trials=1)
    monkeypatch.setattr(retries, "mark_interrupted", mark_interrupted)
    fake(failing())
    assert search(file, folder, trials=1).summary.trials == {"complete": 1}


@pytest.mark.slow
def test_a_gpu_that_a_trial_broke_costs_no_other_trial(tmp_path: Path, fake: Any) -> None:
    failed_assertion = torch.AcceleratorError("CUDA error: device-side assert triggered")
    failed_assertion.error_code = 710
    fake(failing(failed_assertion))
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    with pytest.raises(MachineError, match=r"trial 0: .*; this process cannot use the GPU any more"):
        search(file, folder, trials=2)
    assert search(file, folder, trials=2).summary.trials == {"fail": 1, "complete": 1}


class StopAt(SearchCallback, Callback):
    """Sends a signal to this process after some step of the first trial, and notes where each run starts."""

    def __init__(self, step: int, number: int) -> None:
        self.at, self.number, self.runs, self.label = step, number, list[tuple[str, int]](), ""

    def on_run(self, label: str, values: object) -> Callback:
        self.label = label
        return self

    def on_start(self, experiment: Experiment, step: int) -> None:
        self.runs.append((self.label, step))

    def on_step(self, record: Any) -> None:
        if self.label == "trial 0" and record["step"] == self.at:
            signal.raise_signal(self.number)


@pytest.mark.slow
def test_a_stopped_trial_continues_where_it_was_stopped(tmp_path: Path) -> None:
    whole = search(write_space(tmp_path), tmp_path / "whole", trials=1)
    file, folder = write_space(tmp_path), tmp_path / "s"
    with pytest.raises(KeyboardInterrupt):
        search(file, folder, trials=1, callbacks=[StopAt(3, signal.SIGTERM)])
    watch = StopAt(0, signal.SIGTERM)
    result = search(file, folder, trials=1, callbacks=[watch])
    assert watch.runs == [("trial 1", 3)]
    first, second = trials_of(folder)
    assert (is_interrupted(first), second.user_attrs["retry_of"]) == (True, 0)
    assert list(second.intermediate_values) == [2, 4]
    assert second.values == trials_of(tmp_path / "whole")[0].values, "as if it had not been stopped"
    assert result.summary.best_trial.validation["loss"] == whole.summary.best_trial.validation["loss"]
    assert not (folder / "trials/0000/checkpoints").exists()


@pytest.mark.slow
def test_no_trial_is_asked_for_while_one_is_interrupted(tmp_path: Path, fake: Any, monkeypatch: Any) -> None:
    # Between the two its candidate, which neither runs nor waits, would be taken for one that nobody has tried.
    folder, held = tmp_path / "s", []
    whole = retries.mark_interrupted

    def mark(*arguments: Any, **options: Any) -> None:
        with lock(folder / STUDY_LOCK, wait=False) as acquired:
            held.append(not acquired)
        whole(*arguments, **options)

    monkeypatch.setattr(retries, "mark_interrupted", mark)
    fake(failing(None, FULL))
    with pytest.raises(MachineError):
        search(write_space(tmp_path, study=NO_PRUNING | {"trials": 2}), folder)
    assert held == [True]
