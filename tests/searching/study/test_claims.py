import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from search_helpers import is_free, pretend, replace_costs, replace_training, search, write_space

from archlab.searching.space.load_space import load_space
from archlab.searching.study import study as study_module
from archlab.searching.study.claims import claim, has_left, leave, lock_file, require_own_dir
from archlab.searching.study.progress import checkpoint_step
from archlab.searching.study.study import (
    SearchStudy,
    enqueue_retries,
    fail_stale_trials,
    mark_interrupted,
    open_study,
    record_result,
    tell,
)
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.searching.study.workers import DIR, fence, hold_lease, own_lease, read_workers, work_on
from archlab.storage.files import atomic_dir
from archlab.storage.lease_file import read_lease
from archlab.storage.lease_observer import LeaseObserver
from archlab.storage.leases import LeaseLost, declare_lost, require_not_lost
from archlab.storage.locks import lock
from archlab.storage.manifest import write_manifest

RUNNING, WAITING, COMPLETE, FAIL = TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE, TrialState.FAIL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory of a search that has started."""
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_result_counts_once(study: SearchStudy, other: SearchStudy) -> None:
    trial = begin(study)
    (seen,) = other.get_trials()
    assert record_result(study, trial, {"reason": "", "metrics": {"val_loss": 1.0}}, [1.0], COMPLETE)
    assert not record_result(other, seen, {"reason": "late"}, None, FAIL)
    assert record_result(study, trial, {"reason": "", "metrics": {"val_loss": 1.0}}, [1.0], COMPLETE)  # repeated
    (stored,) = other.get_trials()
    assert (stored.state, stored.value, stored.user_attrs["reason"]) == (COMPLETE, 1.0, "")


@pytest.mark.slow
def test_a_trial_that_another_closes_in_between_is_not_closed_again(study: SearchStudy, other: SearchStudy) -> None:
    trial = begin(study)
    with pytest.raises(ValueError, match="values"):  # a mistake of the caller, of a trial that still runs
        tell(study, trial, [1.0, 2.0], COMPLETE)
    assert states(study) == [RUNNING]
    tell(other, trial, [1.0], COMPLETE)
    with pytest.raises(UpdateFinishedTrialError):
        tell(study, trial, [2.0], COMPLETE)
    assert study.get_trials()[0].value == 1.0


@pytest.mark.parametrize(("files", "step"), [((), 2), (("experiment.yaml",), None), (("metrics.jsonl",), None)])
def test_a_run_continues_from_a_checkpoint_that_is_whole(
    tmp_path: Path, files: tuple[str, ...], step: int | None
) -> None:
    for name in ("experiment.yaml", "metrics.jsonl"):
        (tmp_path / name).touch()
    for number in (2, 4):
        with atomic_dir(tmp_path / f"checkpoints/step_{number:08d}") as partial:
            (partial / "state.json").write_text("{}")
            write_manifest(partial)
    (tmp_path / "checkpoints/step_00000004/state.json").write_text("damaged")
    for name in files:
        (tmp_path / name).unlink()
    assert checkpoint_step(tmp_path) == step
    (tmp_path / "checkpoints/step_00000002/state.json").write_text("damaged")
    assert checkpoint_step(tmp_path) is None


@pytest.mark.slow
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
    assert note == {"search": "search-id", "trial": trial_attrs(stored)["id"], "is_apart": False}
    assert not has_left(folder, stored)
    leave(folder, 0)
    assert has_left(folder, stored)
    require_own_dir(folder, stored)


class Elsewhere:
    """A worker on another machine, whose lease a worker here watches; `silent_s` is for how long it has been silent."""

    def __init__(self, study: SearchStudy, folder: Path) -> None:
        self.folder, self.trial = folder, begin(study)
        with hold_lease(folder) as lease:
            with claim(study, self.trial, folder, "search-id"):
                stored = read_lease(folder / DIR / f"{lease.id}.json")
                note = json.loads(lock_file(folder, self.trial.number).read_text())
            note["boot"] = "another kernel"
            lock_file(folder, self.trial.number).write_text(json.dumps(note))
        assert stored is not None
        self.lease = replace(stored, boot="another kernel", lease_s=1.0)
        self.lease.write(folder / DIR)

    def be_silent(self, observer: LeaseObserver, silent_s: float) -> None:
        """Let the observer look for so many seconds."""
        now = observer.clock()
        for step in range(int(silent_s * 10) + 1):
            observer.clock = lambda step=step: now + step / 10  # type: ignore[misc]
            observer.look()


@pytest.mark.slow
def test_a_worker_elsewhere_has_the_time_of_its_lease_whatever_its_lock_says_here(
    study: SearchStudy, folder: Path
) -> None:
    there = Elsewhere(study, folder)
    with hold_lease(folder) as lease:
        assert is_free(lock_file(folder, 0))
        there.be_silent(lease.observer, 0.8)
        fail_stale_trials(study, folder)
        assert states(study) == [RUNNING]
        assert not require_not_lost(folder / DIR / f"{there.lease.id}.lost")
        there.be_silent(lease.observer, 0.5)
        fail_stale_trials(study, folder)
        assert states(study) == [FAIL, WAITING]
        with pytest.raises(LeaseLost):
            require_not_lost(folder / DIR / f"{there.lease.id}.lost")
        (died, here) = read_workers(folder)
    assert (died.state, died.trial, died.run, died.reason) == (
        *("died", 0, "trials/0000"),
        "it has not answered for 1 s",
    )
    assert (here.id, here.state, here.trial) == (lease.id, "idle", None)


def test_a_process_without_a_lease_takes_no_trial_of_a_worker_elsewhere(study: SearchStudy, folder: Path) -> None:
    Elsewhere(study, folder)
    for _ in range(3):
        fail_stale_trials(study, folder)
    assert states(study) == [RUNNING]


@pytest.mark.slow
def test_a_worker_elsewhere_that_ended_properly_has_left_its_trial(study: SearchStudy, folder: Path) -> None:
    there = Elsewhere(study, folder)
    (folder / DIR / f"{there.lease.id}.json").unlink()
    fail_stale_trials(study, folder)
    assert states(study) == [FAIL, WAITING]


@pytest.mark.slow
def test_a_worker_that_wakes_up_too_late_writes_nothing_and_continues(
    study: SearchStudy, other: SearchStudy, folder: Path
) -> None:
    trial = begin(study)
    with hold_lease(folder) as lease:
        first = lease.id
        with claim(study, trial, folder, "search-id"):
            assert [(w.state, w.trial) for w in read_workers(folder)] == [("working", 0)]
            callback = fence(folder)
            callback.on_step({"step": 1})
            declare_lost(folder / DIR, lease.id, "it has not answered for 60 s")
            with lock(lock_file(folder, 0), wait=False) as acquired:
                assert not acquired, "the lock of a suspended process is still held"
            fail_stale_trials(other, folder)
            assert states(other) == [FAIL, WAITING]
            callback.on_step({"step": 2})
            raise AssertionError("the callback has not ended the run")
        assert not record_result(study, trial, {"reason": ""}, [1.0], COMPLETE)
        again = study.ask()
        with claim(study, again, folder, "search-id"):
            assert (again.number, lease.id != first, lease.is_lost) == (1, True, False)
            fail_stale_trials(other, folder)
            assert states(other) == [FAIL, RUNNING]


def test_a_baseline_is_not_fenced(folder: Path) -> None:
    with hold_lease(folder) as lease:
        work_on(folder, {"run": "baseline"})
        declare_lost(folder / DIR, lease.id, "late")
        fence(folder).on_step({"step": 1})
        assert own_lease(folder / "other") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoints", "attempts"),
    [
        ([[0, 0], [0, 0]], "its process ended 2 times while it ran, without a further checkpoint"),
        ([[0, 2], [0, 2], [0, 2]], "its process ended 2 times while it ran, without a further checkpoint"),
        ([[0, 0], [0, 2], [0, 2], [1, 0]], "interrupted"),
    ],
)
def test_an_attempt_counts_if_the_checkpoint_did_not_advance(
    study: SearchStudy, folder: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: list[list[int]], attempts: str
) -> None:
    begin(study).set_user_attr("values", {})
    for number, progress in enumerate(checkpoints):
        monkeypatch.setattr(study_module, "progress_of", lambda _, progress=progress: progress)
        mark_interrupted(study, study.get_trials()[number], folder, by_itself=True)
        enqueue_retries(study)
        if number + 1 < len(checkpoints):
            assert study.ask().number == number + 1
    last = trial_attrs(study.get_trials()[len(checkpoints) - 1])
    assert (last["reason"], last["next_attempt"]) == (attempts, len(checkpoints) + 1)
    assert states(study)[len(checkpoints) :] == ([WAITING] if last["interrupted"] else [])


@pytest.mark.slow
def test_a_worker_that_dies_is_hardly_the_fault_of_a_trial_in_another_process(
    study: SearchStudy, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "MAX_WORKERS", 3)
    trial = begin(study)
    trial.set_user_attr("values", {})
    for number in range(3):
        with claim(study, trial, folder, "search-id", is_apart=True):
            pass
        fail_stale_trials(study, folder)
        if number < 2:
            trial = study.ask()
    assert states(study) == [FAIL] * 3
    assert trial_attrs(study.get_trials()[2])["reason"] == "3 workers died while it ran, without a further checkpoint"


@pytest.mark.slow
def test_a_stop_by_the_user_counts_for_nothing(study: SearchStudy, folder: Path) -> None:
    begin(study).set_user_attr("values", {})
    for number in range(3):
        mark_interrupted(study, study.get_trials()[number], folder, by_itself=False)
        enqueue_retries(study)
        study.ask()
    assert trial_attrs(study.get_trials()[2])["fruitless"] == 0


@pytest.mark.slow
def test_a_worker_continues_when_another_has_closed_its_trial(
    space_file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, closed = pretend(), []

    def train(experiment: Any, place: Path, **options: Any) -> Any:
        if place.name == "0000":
            study = open_study(load_space(space_file), folder)
            closed.append(record_result(study, study.get_trials()[0], {"reason": "gone"}, None, FAIL))
        return done(experiment, place, **options)

    replace_training(monkeypatch, train)
    replace_costs(monkeypatch)
    assert search(space_file, folder, trials=2).summary.trials == {"fail": 1, "complete": 1}
    assert closed == [True]
