import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from search_helpers import pretend, search, write_space

from archlab.modeling.cost import Cost
from archlab.searching import run
from archlab.searching.results import best_trial
from archlab.searching.space.search_space import load_space
from archlab.searching.study.claims import claim, has_left, leave, lock_file, require_own_dir
from archlab.searching.study.study import (
    SearchStudy,
    enqueue_retries,
    fail_stale_trials,
    mark_interrupted,
    open_study,
    record_result,
)
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.storage.locks import lock

RUNNING, WAITING, COMPLETE, FAIL = TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE, TrialState.FAIL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory of a search that has begun."""
    (tmp_path / "s").mkdir()
    return tmp_path / "s"


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    """Its space."""
    return write_space(tmp_path, study={"pruner": "none"})


@pytest.fixture
def study(space_file: Path, folder: Path) -> SearchStudy:
    """The study as one worker sees it."""
    return open_study(load_space(space_file), folder)


@pytest.fixture
def other(study: SearchStudy, space_file: Path, folder: Path) -> SearchStudy:
    """The study as another worker sees it."""
    return open_study(load_space(space_file), folder)


def begin(study: SearchStudy) -> optuna.Trial:
    trial = study.ask()
    trial.suggest_float("train.lr", 0.001, 0.1, log=True)
    return trial


def states(study: SearchStudy) -> list[TrialState]:
    return [trial.state for trial in study.get_trials()]


def test_a_trial_that_its_worker_finishes_while_another_lists_the_running_ones_is_not_taken(
    study: SearchStudy, other: SearchStudy, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = begin(other)
    listed = study.get_trials(states=(RUNNING,))
    assert record_result(other, trial, {"reason": ""}, [1.0], COMPLETE)
    get_trials = study.get_trials

    def stale(deepcopy: bool = True, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        return listed if states == (RUNNING,) else get_trials(deepcopy, states)

    monkeypatch.setattr(study, "get_trials", stale)
    fail_stale_trials(study, folder)
    assert states(other) == [COMPLETE]


def test_one_worker_alone_takes_a_stale_trial(study: SearchStudy, other: SearchStudy, folder: Path) -> None:
    begin(study)
    with lock(lock_file(folder, 0), wait=True):
        fail_stale_trials(other, folder)
        assert states(study) == [RUNNING]
    for worker in (study, other, study):
        fail_stale_trials(worker, folder)
    assert states(study) == [FAIL, WAITING]
    assert study.ask().number == 1
    assert other.ask().number == 2


def test_a_result_counts_once(study: SearchStudy, other: SearchStudy) -> None:
    trial = begin(study)
    (seen,) = other.get_trials()
    assert record_result(study, trial, {"reason": "", "metrics": {"val_loss": 1.0}}, [1.0], COMPLETE)
    assert not record_result(other, seen, {"reason": "late"}, None, FAIL)
    assert record_result(study, trial, {"reason": "", "metrics": {"val_loss": 1.0}}, [1.0], COMPLETE)  # repeated
    (stored,) = other.get_trials()
    assert (stored.state, stored.value, stored.user_attrs["reason"]) == (COMPLETE, 1.0, "")


def test_a_retry_is_enqueued_once_and_after_a_stop_in_between(
    study: SearchStudy, other: SearchStudy, folder: Path
) -> None:
    begin(study)
    mark_interrupted(study, study.get_trials()[0], folder, by_itself=True)  # and is killed before the retry
    assert states(study) == [FAIL]
    for worker in (other, study):
        enqueue_retries(worker)
    assert states(study) == [FAIL, WAITING]
    assert trial_attrs(study.get_trials()[1])["attempt"] == 2


def test_the_lock_of_a_trial_says_whose_it_is(study: SearchStudy, folder: Path) -> None:
    trial = begin(study)
    with claim(study, trial, folder, "search-id"):
        note = json.loads(lock_file(folder, 0).read_text())
    (stored,) = study.get_trials()
    assert note == {"search": "search-id", "trial": trial_attrs(stored)["id"]}
    assert not has_left(folder, stored)
    leave(folder, 0)
    assert has_left(folder, stored)
    require_own_dir(folder, stored)


@pytest.mark.slow
def test_a_worker_goes_on_when_another_has_closed_its_trial(
    space_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, closed = pretend(), []

    def train(experiment: Any, place: Path, **options: Any) -> Any:
        if place.name == "0000":
            study = open_study(load_space(space_file), folder)
            closed.append(record_result(study, study.get_trials()[0], {"reason": "gone"}, None, FAIL))
        return done(experiment, place, **options)

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(run, "estimate_cost", lambda _: Cost(*[1] * 10))
    monkeypatch.setattr(best_trial, "_evaluate", lambda *_: {})
    assert search(space_file, folder, trials=2).summary.trials == {"fail": 1, "complete": 1}
    assert closed == [True]
