"""Search: a baseline, then trials around the base experiment until their number is reached.

Any number of processes may work on one directory, and each may be stopped at any moment: the same command resumes
the search.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from archlab.data.task import Task
from archlab.errors import ArchlabError, MachineError, TrainingError, one_line
from archlab.modeling.cost import estimate_cost
from archlab.runtime.outcome import Outcome, is_out_of_memory, iter_causes, outcome_of
from archlab.runtime.private_apis import breaks_process
from archlab.runtime.signals import stop_on_signals
from archlab.searching.failures import InfeasibleTrial, failure_reason
from archlab.searching.results.baseline import BaselineResult, read_baseline
from archlab.searching.results.best_trial import publish_best, summarize
from archlab.searching.results.meter import Meter, is_used_up, search_spent
from archlab.searching.results.summary import SearchSummary
from archlab.searching.sampling.asking import TrialQueue
from archlab.searching.sampling.trial_values import choose_values, held_base
from archlab.searching.sampling.turns import Wait
from archlab.searching.space.search_space import Space
from archlab.searching.study.claims import claim, leave
from archlab.searching.study.database import DatabaseError
from archlab.searching.study.identity import read_identity, require_same_search
from archlab.searching.study.search_dir import open_search
from archlab.searching.study.study import fail_stale_trials, finished_trials, open_study, record_result
from archlab.searching.study.trial_attrs import TrialAttrs, set_trial_attrs
from archlab.searching.trials.callbacks import Judge, SearchCallback, SearchCallbackList
from archlab.searching.trials.prepared_trial import judge_of, plan_objectives, prepare_trial
from archlab.searching.trials.retries import continue_retried, continue_runs, leave_open
from archlab.searching.trials.train_trial import train_trial
from archlab.searching.trials.trial_job import TrialJob, TrialOutput, make_job
from archlab.searching.variants.planned import Costs, TrialCosts
from archlab.storage.locks import lock
from archlab.training.callbacks import Callback, CallbackList

_POLL_S = 1.0  # between looks at the trials of other workers, on which the next choice depends
STATE_NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@dataclass(frozen=True)
class SearchResult:
    """The directory of a search, the number of its best trial if any is complete, and its summary."""

    folder: Path
    best_trial: int | None
    summary: SearchSummary = field(repr=False)

    @property
    def model_dir(self) -> Path:
        """The directory of the best trial's model, for `archlab.load_model`."""
        return self.folder / "best"


def search(
    space: Space,
    folder: Path,
    *,
    trials: int | None = None,
    callbacks: Sequence[SearchCallback] = (),
    force: bool = False,
) -> SearchResult:
    """Search a space in a directory, or resume the search that the directory holds; `force` starts over.

    Raises ArchlabError where the directory holds another search, naming the first difference.
    """
    _require_bits_per_byte(space)
    total = trials if trials is not None else space.study.trials
    held_base(space)  # a budget that even the base experiment cannot meet is refused before there is a directory
    with stop_on_signals(), open_search(space, folder, force):
        return SearchWorker(space, folder, total, SearchCallbackList(callbacks)).run()


def _require_bits_per_byte(space: Space) -> None:
    """Raise ArchlabError if trials are to be compared by bits per byte and the tokens do not tell the text."""
    if "val_bpb" in space.objectives:
        task: Task = space.base.resolve().task.factory()()
        if not task.has_bits_per_byte("validation"):
            raise ArchlabError("objectives: val_bpb: bits per byte of this text would be wrong; take val_loss")


class SearchWorker:
    """One of the workers of a search: it claims trials one at a time, and trains them."""

    def __init__(self, space: Space, folder: Path, total: int, callback: SearchCallback) -> None:
        self.space, self.folder, self.total, self.callback = space, folder, total, callback
        with lock(folder / ".study.lock", wait=True):  # two workers that create the database at once would both fail
            self.study = open_study(space, folder)
            identity = read_identity(folder)
        assert identity is not None
        self.identity = identity
        self.queue, self.meter = TrialQueue(self.study, space, total), Meter()

    def run(self) -> SearchResult:
        """Run trials until their number is reached; return the result of the whole search."""
        self.callback.on_search(self.space, len(finished_trials(self.study)), self.total)
        self._run_baseline(wait=False)
        # Before the first trial: a worker that was stopped may have left a better trial that is not published yet.
        publish_best(self.study, self.space, self.folder, self.identity)
        while self._run_next_trial():
            publish_best(self.study, self.space, self.folder, self.identity)
        baseline = self._run_baseline(wait=True)
        assert baseline is not None
        best, summary = summarize(self.study, self.space, self.folder, self.identity, baseline)
        return SearchResult(self.folder, best.number if best else None, summary)

    def _run_baseline(self, *, wait: bool) -> BaselineResult | None:
        """Train the base experiment once; return None, unless `wait`, while another worker trains it."""
        run = self.folder / "baseline"
        with lock(run / "lock", wait=wait) as acquired:
            if acquired and read_baseline(run) is None:
                result = self._train_baseline(run)
                replace(result, search=self.identity.search, spent=self.meter.spent).write(run)
        baseline = read_baseline(run)
        require_same_search(baseline.search if baseline else "", self.identity, run)
        return baseline

    def _train_baseline(self, run: Path) -> BaselineResult:
        raw, self.meter = held_base(self.space), Meter()
        experiment = raw.resolve()
        job = make_job(self.space, "baseline", run, raw, self.identity.search)
        try:
            costs = TrialCosts(estimate_cost(experiment).to_dict(), experiment, {}, self.space.varied)
            metrics = plan_objectives(self.space, costs) | self._train(job, costs.own, None).metrics
        except Exception as error:
            # A mistake in the base experiment stops the search, too: every trial would repeat it.
            if not isinstance(error, TrainingError) and not is_out_of_memory(error):
                raise
            reason = failure_reason(error)
            self.callback.on_result("baseline", "failed", reason, {})
            return BaselineResult(reason=reason)
        self.callback.on_result("baseline", "complete", "", metrics)
        return BaselineResult(metrics)

    def _run_next_trial(self) -> bool:
        """Claim and run a trial; return False if enough trials have ended or are running."""
        with ExitStack() as held:
            # Under one lock for all workers, so that each counts the trials that the others have claimed. It is held
            # until the trial's own lock is acquired: a running trial that is not locked is one whose worker has died.
            with lock(self.folder / ".study.lock", wait=True):
                fail_stale_trials(self.study, self.folder)
                trial = None if self._is_used_up() else self.queue.ask()
                if isinstance(trial, Trial):
                    held.enter_context(claim(self.study, trial, self.folder, self.identity.search))
            if trial is None:
                return False
            if isinstance(trial, Wait):
                time.sleep(_POLL_S)
                return True
            try:
                self._run_trial(trial)
            except DatabaseError:
                leave(self.folder, trial.number)
                raise
        return True

    def _is_used_up(self) -> bool:
        budget = self.space.study.budget
        return bool(budget) and is_used_up(budget, search_spent(self.study, self.folder))

    def _run_trial(self, trial: Trial) -> None:
        """Run one trial and record its state, metrics and failure reason."""
        state, reason, is_broken = TrialState.FAIL, "", False
        metrics: dict[str, float] = {}
        values: list[float] | None = None
        self.meter = Meter(partial(self._note_spent, trial) if self.space.study.budget else None)
        try:
            metrics = self._objective(trial)
            values = [_require_finite(metrics, name) for name in self.space.objectives]
            state = TrialState.COMPLETE
        except (optuna.TrialPruned, InfeasibleTrial) as error:
            state, reason = TrialState.PRUNED, one_line(error)
        except BaseException as error:
            if outcome_of(error) is not Outcome.TRIAL:
                if not isinstance(error, DatabaseError):  # which has been waited for, and is still away
                    with suppress(Exception):
                        self._note_spent(trial, self.meter.spent)
                    leave_open(self.study, trial.number, self.folder)
                raise
            reason, is_broken = failure_reason(error), any(map(breaks_process, iter_causes(error)))
        attrs: TrialAttrs = {"reason": reason, "metrics": metrics, "spent": self.meter.spent}
        if not record_result(self.study, trial, attrs, values, state):
            state, reason = TrialState.FAIL, "another worker has closed this trial; its result there counts"
        self.callback.on_result(f"trial {trial.number}", STATE_NAMES[state], reason, metrics)
        if is_broken:  # the trial's own doing, which the next one must not pay for
            raise MachineError(f"trial {trial.number}: {reason}; this process cannot use the GPU any more")

    def _objective(self, trial: Trial) -> dict[str, float]:
        chosen = choose_values(trial, self.space)
        set_trial_attrs(self.study, trial, {"values": chosen.values})
        try:
            prepared = prepare_trial(self.study, self.space, trial, chosen, self.folder, self.identity.search)
        except Exception:
            self.callback.on_run(f"trial {trial.number}", chosen.values)  # which is told before its end is
            raise
        job, judge = prepared.job, judge_of(self.study, self.space, trial, prepared.planned)
        if job.is_single:
            job = replace(job, resume=continue_retried(self.study, trial, self.folder, job.metric, judge))
        else:
            continue_runs(self.study, trial, self.folder)
        output = self._train(job, prepared.costs, judge)
        set_trial_attrs(self.study, trial, output.attrs)
        return prepared.planned | output.metrics

    def _train(self, job: TrialJob, costs: Costs, judge: Judge | None) -> TrialOutput:
        return train_trial(job, Listener(judge, self.callback, self.meter, costs["flops_per_token"]))

    def _note_spent(self, trial: Trial, spent: dict[str, float]) -> None:
        set_trial_attrs(self.study, trial, {"spent": spent})


@dataclass(frozen=True)
class Listener:
    """Forwards what a trial tells to the callbacks of the search, and to its meter."""

    judge: Judge | None
    callback: SearchCallback
    meter: Meter
    flops_per_token: float

    def on_run(self, label: str, values: Mapping[str, Any]) -> Callback:
        """Return the callback of a training run."""
        return CallbackList([self.meter.watch(self.flops_per_token), self.callback.on_run(label, values)])


def _require_finite(metrics: Mapping[str, float], name: str) -> float:
    value = metrics.get(name)
    if value is None or not math.isfinite(value):
        raise TrainingError(f"{name} is {value}")
    return value
