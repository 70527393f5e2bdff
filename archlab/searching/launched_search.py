"""A search whose workers a launcher places: as jobs on this machine, in a queue, or on a cluster."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from optuna.trial import TrialState

from archlab.errors import MachineError
from archlab.searching.fleet import Fleet
from archlab.searching.results.best_trial import best_trial
from archlab.searching.results.progress import search_progress
from archlab.searching.results.summary import SearchSummary, read_summary
from archlab.searching.space.search_space import Space
from archlab.searching.study.search_dir import STUDY_LOCK
from archlab.searching.study.study import SearchStudy, finished_trials, open_study
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.searching.trials.callbacks import SearchCallback
from archlab.searching.worker import STATE_NAMES, SearchResult
from archlab.storage.locks import lock


def run_launched(space: Space, folder: Path, total: int, callback: SearchCallback, workers: int) -> SearchResult:
    """Let the launcher of a space place workers, wait for them, and return the result of the search.

    Asks all to save and end where this process is interrupted. Raises MachineError if they end before the search.
    """
    assert space.study.launcher is not None
    with lock(folder / STUDY_LOCK, wait=True):
        study = open_study(space, folder)
    events = _Events(study, callback)
    callback.on_search(space, len(events.reported), total)
    callback.on_study(partial(search_progress, study, space, folder, total))
    fleet = Fleet(space.study.launcher.create(), space, folder, workers)
    fleet.wait(events.tell)
    events.tell()
    summary = read_summary(folder)
    if summary is None or not _is_whole(summary, study):
        raise MachineError(fleet.explain())
    best = best_trial(study)
    return SearchResult(folder, best.number if best else None, summary)


def _is_whole(summary: SearchSummary, study: SearchStudy) -> bool:
    """Return whether a summary is of all trials, none of which is to be run again."""
    open_ones = study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
    return not open_ones and sum(summary.trials.values()) == len(finished_trials(study))


class _Events:
    """Reports to a callback the trials that have ended, of any worker."""

    def __init__(self, study: SearchStudy, callback: SearchCallback) -> None:
        self.study, self.callback = study, callback
        self.reported = {trial.number for trial in finished_trials(study)}

    def tell(self) -> int:
        """Report the trials that have ended since the last call; return the total number of ended ones."""
        for trial in finished_trials(self.study):
            if trial.number not in self.reported:
                self.reported.add(trial.number)
                attrs = trial_attrs(trial)
                state, reason = STATE_NAMES[trial.state], attrs.get("reason", "")
                self.callback.on_result(f"trial {trial.number}", state, reason, attrs.get("metrics", {}))
        self.callback.on_wait()
        return len(self.reported)
