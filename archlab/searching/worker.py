"""A worker of a search: it claims one trial after the other, and has them trained."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from archlab.errors import MachineError, TrainingError, one_line
from archlab.runtime.outcome import Outcome, is_out_of_memory, iter_causes, outcome_of
from archlab.runtime.private_apis import breaks_process
from archlab.searching.failures import InfeasibleTrial, exits_fail, failure_reason
from archlab.searching.results.baseline import BaselineResult, read_baseline
from archlab.searching.results.best_trial import publish_best, summarize
from archlab.searching.results.meter import Meter, is_used_up, search_spent
from archlab.searching.results.progress import search_progress
from archlab.searching.results.summary import SearchSummary
from archlab.searching.sampling.rounds import Wait
from archlab.searching.sampling.trial_queue import TrialQueue
from archlab.searching.sampling.trial_values import choose_values, held_base, solve_held
from archlab.searching.space.search_space import Space
from archlab.searching.study.claims import claim, leave, trial_dir
from archlab.searching.study.database import DatabaseError
from archlab.searching.study.identity import read_identity, require_same_search
from archlab.searching.study.promotion import is_anything_running
from archlab.searching.study.search_dir import STUDY_LOCK
from archlab.searching.study.study import (
    INTERRUPTED,
    PAUSED,
    close_paused,
    fail_stale_trials,
    finished_trials,
    open_study,
    record_result,
)
from archlab.searching.study.trial_attrs import TrialAttrs, set_trial_attrs
from archlab.searching.study.workers import fence, work_on
from archlab.searching.trials.attempts import train_to_its_end
from archlab.searching.trials.callbacks import Judge, SearchCallback, TrialPaused
from archlab.searching.trials.prepared_trial import judge_of, plan_objectives, prepare_trial
from archlab.searching.trials.retries import continue_retried, continue_runs, interrupt, leave_open
from archlab.searching.trials.train_trial import open_here
from archlab.searching.trials.trial_job import SAVE_EVERY_S, OpenRunner, TrialJob, TrialOutput, TrialRunner, make_job
from archlab.searching.trials.trial_process import TrialLost
from archlab.searching.variants.cost_request import Costs
from archlab.searching.variants.planned import TrialCosts
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


class SearchWorker:
    """One of the workers of a search: it claims trials one at a time, and trains them."""

    def __init__(
        self, space: Space, folder: Path, total: int, callback: SearchCallback, open_runner: OpenRunner = open_here
    ) -> None:
        self.space, self.folder, self.total, self.callback = space, folder, total, callback
        self.open_runner = open_runner
        with lock(folder / STUDY_LOCK, wait=True):  # two workers that create the database at once would both fail
            self.study = open_study(space, folder)
            identity = read_identity(folder)
        assert identity is not None
        self.identity = identity
        self.queue, self.meter = TrialQueue(self.study, space, total), Meter()

    def run(self) -> SearchResult:
        """Run trials until their number is reached; return the result of the whole search."""
        self.begin()
        self.work()
        return self.finish()

    def begin(self) -> None:
        """Report the progress of the search."""
        self.callback.on_search(self.space, len(finished_trials(self.study)), self.total)
        self.callback.on_study(partial(search_progress, self.study, self.space, self.folder, self.total))

    def work(self) -> None:
        """Train the baseline, unless another worker does, and run trials until there is none to begin."""
        self._run_baseline(wait=False)
        # Before the first trial: a worker that was stopped may have left a better trial that is not published yet.
        publish_best(self.study, self.space, self.folder, self.identity)
        while self._run_next_trial():
            publish_best(self.study, self.space, self.folder, self.identity)

    def is_last(self) -> bool:
        """Return whether no trial runs or waits, so that the search can be finished."""
        return not is_anything_running(self.study)

    def finish(self) -> SearchResult:
        """Wait for the baseline, evaluate the best trial, and write the summary."""
        baseline = self._run_baseline(wait=True)
        assert baseline is not None
        with lock(self.folder / STUDY_LOCK, wait=True):
            if self.is_last():
                close_paused(self.study)
        on_eval = self.callback.on_final_eval
        best, summary = summarize(self.study, self.space, self.folder, self.identity, baseline, on_eval)
        return SearchResult(self.folder, best.number if best else None, summary)

    def _run_baseline(self, *, wait: bool) -> BaselineResult | None:
        """Train the base experiment once; return None, unless `wait`, while another worker trains it."""
        run = self.folder / "baseline"
        with lock(run / "lock", wait=wait) as acquired:
            if acquired and read_baseline(run) is None:
                work_on(self.folder, {"run": "baseline"})
                result = self._train_baseline(run)
                work_on(self.folder, None)
                replace(result, search=self.identity.search, spent=self.meter.spent).write(run)
        baseline = read_baseline(run)
        require_same_search(baseline.search if baseline else "", self.identity, run)
        return baseline

    def _train_baseline(self, run: Path) -> BaselineResult:
        raw, self.meter = held_base(self.space), Meter()
        job = make_job(self.space, "baseline", run, raw, self.identity.search)
        try:
            metrics = train_to_its_end("baseline", run, self.open_runner, partial(self._measure_baseline, job))
        except Exception as error:
            # A mistake in the base experiment stops the search, too: every trial would repeat it.
            if not isinstance(error, TrainingError) and not is_out_of_memory(error):
                raise
            reason = failure_reason(error)
            self.callback.on_result("baseline", "failed", reason, {})
            return BaselineResult(reason=reason)
        self.callback.on_result("baseline", "complete", "", metrics)
        return BaselineResult(metrics)

    def _measure_baseline(self, job: TrialJob, runner: TrialRunner, save_every_s: float | None) -> dict[str, float]:
        costs = TrialCosts(job.experiment, {}, self.space.varied, runner.count)
        planned = plan_objectives(self.space, costs)
        return planned | self._train(runner, replace(job, save_every_s=save_every_s), costs.own, None).metrics

    def _run_next_trial(self) -> bool:
        """Claim and run a trial; return False if enough trials have ended or are running."""
        with ExitStack() as held:
            # Under one lock for all workers, so that each counts the trials that the others have claimed. It is held
            # until the trial's own lock is acquired: a running trial that is not locked is one whose worker has died.
            with lock(self.folder / STUDY_LOCK, wait=True):
                fail_stale_trials(self.study, self.folder)
                trial = None if self._is_used_up() else self.queue.ask()
                if isinstance(trial, Trial):
                    held.enter_context(self._claim(trial))
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

    def _claim(self, trial: Trial) -> AbstractContextManager[None]:
        is_apart = self.open_runner is not open_here
        return claim(self.study, trial, self.folder, self.identity.search, is_apart=is_apart)

    def _is_used_up(self) -> bool:
        budget = self.space.study.budget
        return bool(budget) and is_used_up(budget, search_spent(self.study, self.folder))

    def _run_trial(self, trial: Trial) -> None:
        """Run one trial and record its state, metrics and failure reason."""
        state, reason, is_broken = TrialState.FAIL, "", False
        metrics: dict[str, float] = {}
        values: list[float] | None = None
        store = partial(self._note_spent, trial) if self.space.study.budget else None
        self.meter = Meter(store, trial.user_attrs.get("spent"))  # a promoted trial has been trained before
        try:
            label, alone = f"trial {trial.number}", trial.user_attrs.get("fruitless", 0) > 0
            run = trial_dir(self.folder, trial.number)
            with exits_fail(), self.open_runner(label, run, alone=alone) as runner:
                metrics = self._objective(trial, runner)
            values = [_require_finite(metrics, name) for name in self.space.objectives]
            state = TrialState.COMPLETE
        except (optuna.TrialPruned, InfeasibleTrial) as error:
            state, reason = TrialState.PRUNED, one_line(error)
        except TrialPaused as error:
            step = max(self._stored_trial(trial).intermediate_values)
            set_trial_attrs(self.study, trial, {"paused": step, "spent": self.meter.spent})
            self.callback.on_result(f"trial {trial.number}", PAUSED, one_line(error), {})
            return
        except TrialLost as error:
            # The claim is still held: no other worker has closed the trial, and its process is gone.
            interrupt(self.study, trial.number, self.folder, by_itself=error.by_itself)
            self.callback.on_result(f"trial {trial.number}", INTERRUPTED, one_line(error), {})
            return
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

    def _stored_trial(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials()[trial.number]

    def _objective(self, trial: Trial, runner: TrialRunner) -> dict[str, float]:
        suggested = choose_values(trial, self.space)
        set_trial_attrs(self.study, trial, {"values": suggested})  # so that they are known if the process dies
        chosen = solve_held(trial, self.space, suggested, runner.count)
        set_trial_attrs(self.study, trial, {"values": chosen.values})
        try:
            search = self.identity.search
            prepared = prepare_trial(self.study, self.space, trial, chosen, self.folder, search, runner.count)
        except Exception:
            self.callback.on_run(f"trial {trial.number}", chosen.values)  # which is reported before its end
            raise
        job = replace(prepared.job, save_every_s=SAVE_EVERY_S if trial.user_attrs.get("retry_of") is not None else None)
        judge = judge_of(self.study, self.space, trial, prepared.planned)
        if job.is_single:
            is_promoted = trial.user_attrs.get("paused") == 0
            job = replace(
                job, resume=is_promoted or continue_retried(self.study, trial, self.folder, job.metric, judge)
            )
        else:
            continue_runs(self.study, trial, self.folder)
        output = self._train(runner, job, prepared.costs, judge)
        set_trial_attrs(self.study, trial, output.attrs)
        return prepared.planned | output.metrics

    def _train(self, runner: TrialRunner, job: TrialJob, costs: Costs, judge: Judge | None) -> TrialOutput:
        listener = Listener(judge, self.callback, self.meter, costs["flops_per_token"], self.folder)
        return runner.train(job, listener)

    def _note_spent(self, trial: Trial, spent: dict[str, float]) -> None:
        set_trial_attrs(self.study, trial, {"spent": spent})


@dataclass(frozen=True)
class Listener:
    """Forwards the reports of a trial to the callbacks of the search, and to its meter."""

    judge: Judge | None
    callback: SearchCallback
    meter: Meter
    flops_per_token: float
    folder: Path

    def on_run(self, label: str, values: Mapping[str, object]) -> Callback:
        """Return the callback of a training run."""
        return CallbackList(
            [fence(self.folder), self.meter.watch(self.flops_per_token), self.callback.on_run(label, values)]
        )


def _require_finite(metrics: Mapping[str, float], name: str) -> float:
    value = metrics.get(name)
    if value is None:
        raise TrainingError(f"{name} was not measured")
    if not math.isfinite(value):
        raise TrainingError(f"{name} is {value}")
    return value
