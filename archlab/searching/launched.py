"""A search whose workers a launcher places: as jobs on this machine, in a queue, or on a cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from optuna.trial import TrialState

from archlab.errors import MachineError
from archlab.runtime.launch import STDERR, Job, Launcher
from archlab.runtime.outcome import Outcome
from archlab.searching.results.best_trial import best_trial
from archlab.searching.results.progress import search_progress
from archlab.searching.results.summary import SearchSummary, read_summary
from archlab.searching.space.search_space import Space
from archlab.searching.space.storage_url import password_environment
from archlab.searching.study.search_dir import JOBS
from archlab.searching.study.study import SearchStudy, finished_trials, open_study
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.searching.trials.callbacks import SearchCallback
from archlab.searching.worker import STATE_NAMES, SearchResult
from archlab.storage.locks import lock

MAX_DEATHS = 3  # of a worker's jobs in a row, without a trial that has ended in between
_POLL_S = 2.0
_GRACE_S = 90.0  # for a worker to save the checkpoint of its trial in
_AGAIN = (Outcome.MACHINE, Outcome.PREEMPTED, Outcome.KILLED, Outcome.TIME_LIMIT)


def run_launched(space: Space, folder: Path, total: int, callback: SearchCallback, workers: int) -> SearchResult:
    """Let the launcher of a space place so many workers, wait for them, and return the result of the search.

    Asks all to save and end where this process is interrupted. Raises MachineError if they end before the search.
    """
    assert space.study.launcher is not None
    with lock(folder / ".study.lock", wait=True):
        study = open_study(space, folder)
    events = _Events(study, callback)
    callback.on_search(space, len(events.told), total)
    callback.on_study(partial(search_progress, study, space, folder, total))
    fleet = Fleet(space.study.launcher.create(), space, folder, workers)
    try:
        while fleet.poll(len(events.told)):
            time.sleep(_POLL_S)
            events.tell()
    except BaseException:
        fleet.stop()
        raise
    events.tell()
    summary = read_summary(folder)
    if summary is None or not _is_whole(summary, study):
        raise MachineError(fleet.explain())
    best = best_trial(study)
    return SearchResult(folder, best.number if best else None, summary)


def _is_whole(summary: SearchSummary, study: SearchStudy) -> bool:
    """Tell whether a summary is of all trials, none of which is to be run again."""
    open_ones = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    return not open_ones and sum(summary.trials.values()) == len(finished_trials(study))


class _Events:
    """Tells a callback which trials have ended, by whichever worker."""

    def __init__(self, study: SearchStudy, callback: SearchCallback) -> None:
        self.study, self.callback = study, callback
        self.told = {trial.number for trial in finished_trials(study)}

    def tell(self) -> None:
        """Tell what has ended since the last call."""
        for trial in finished_trials(self.study):
            if trial.number not in self.told:
                self.told.add(trial.number)
                attrs = trial_attrs(trial)
                state, reason = STATE_NAMES[trial.state], attrs.get("reason", "")
                self.callback.on_result(f"trial {trial.number}", state, reason, attrs.get("metrics", {}))
        self.callback.on_wait()


@dataclass
class _Place:
    """A worker's: its jobs one after the other, with what has ended them."""

    folder: Path
    job: str | None = None
    deaths: int = 0
    ended_before: int = 0
    outcome: Outcome | None = None


class Fleet:
    """The workers of a search, each a job that is submitted again if its machine has ended it, and not the search."""

    def __init__(self, launcher: Launcher, space: Space, folder: Path, workers: int) -> None:
        self.launcher, self.resources, self.search = launcher, space.study.resources, folder
        self.env = password_environment(space.study.storage)
        self.places = [_Place(folder / JOBS / str(number)) for number in range(workers)]
        for place in self.places:
            place.job = self._submit(place)

    def _submit(self, place: _Place) -> str:
        # The directory holds all of the search. Its plugins were trusted when the user named the space.
        own = ("search", str(self.search.absolute()), "--worker", "--trust-plugins")
        return self.launcher.submit(
            Job((sys.executable, "-m", "archlab", *own), place.folder, self.resources, self.env)
        )

    def poll(self, ended_trials: int) -> bool:
        """Look after every worker; return whether any of them still works, or waits to."""
        for place in self._working():
            assert place.job is not None
            outcome = self.launcher.poll(place.job)
            if outcome is None:
                continue
            place.outcome = outcome
            place.deaths = 1 if ended_trials > place.ended_before else place.deaths + 1
            place.ended_before = ended_trials
            place.job = self._submit(place) if outcome in _AGAIN and place.deaths < MAX_DEATHS else None
        return any(True for _ in self._working())

    def _working(self) -> Iterator[_Place]:
        return (place for place in self.places if place.job is not None)

    def stop(self) -> None:
        """Ask every worker to save and end, and wait until all have ended."""
        for place in self._working():
            assert place.job is not None
            self.launcher.stop(place.job, _GRACE_S)
        deadline = time.monotonic() + _GRACE_S + _POLL_S
        while time.monotonic() < deadline and any(self.launcher.poll(p.job or "") is None for p in self._working()):
            time.sleep(_POLL_S)

    def explain(self) -> str:
        """Return why the workers ended before the search, by the last one that was unwell."""
        unwell = [place for place in self.places if place.outcome not in (None, Outcome.DONE)]
        if not unwell:
            return f"{self.search}: all workers have ended, and the search has not"
        place = unwell[-1]
        assert place.outcome is not None
        file = place.folder / STDERR
        lines = file.read_text(errors="replace").strip().splitlines() if file.is_file() else []
        last = f": {lines[-1].removeprefix('archlab: ')}" if lines else ""
        return f"the workers have ended before the search: {place.outcome.value}{last}; see {file}"
