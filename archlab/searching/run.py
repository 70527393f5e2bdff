"""Search: a baseline, then trials around the base experiment until their number is reached.

Any number of processes may work on one directory, and each may be stopped at any moment: the same command resumes
the search.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import Trial, TrialState

from archlab.config.experiment import Experiment, UnresolvedExperiment
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
from archlab.searching.results.objectives import decode_us_per_token, tokens_per_s
from archlab.searching.results.progress import search_progress
from archlab.searching.results.summary import SearchSummary
from archlab.searching.sampling.asking import TrialQueue
from archlab.searching.sampling.repeats import with_own_seed
from archlab.searching.sampling.trial_values import choose_values, held_base
from archlab.searching.sampling.turns import Wait
from archlab.searching.space.dominance import DominanceConfig
from archlab.searching.space.inner import inner_values
from archlab.searching.space.search_space import Space
from archlab.searching.space.study_config import DOMINATED
from archlab.searching.study.claims import claim, leave, trial_dir
from archlab.searching.study.database import DatabaseError
from archlab.searching.study.dominance_judge import DominanceJudge
from archlab.searching.study.identity import read_identity, require_same_search
from archlab.searching.study.search_dir import open_search
from archlab.searching.study.study import fail_stale_trials, finished_trials, open_study, record_result
from archlab.searching.study.trial_attrs import TrialAttrs, set_trial_attrs
from archlab.searching.trials.callbacks import Judge, PruningCallback, SearchCallback, SearchCallbackList
from archlab.searching.trials.candidate_runs import CandidateResult, CandidateRuns
from archlab.searching.trials.retries import continue_retried, continue_runs, leave_open
from archlab.searching.variants.apply import apply_values
from archlab.searching.variants.planned import TrialCosts
from archlab.storage.locks import lock
from archlab.training.callbacks import Callback
from archlab.training.trainer import train

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
    """One of the processes that work on a search: it claims trials one at a time, and trains them."""

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
        self.callback.on_study(partial(search_progress, self.study, self.space, self.folder, self.total))
        self._run_baseline(wait=False)
        # Before the first trial: a worker that was stopped may have left a better trial that is not published yet.
        publish_best(self.study, self.space, self.folder, self.identity)
        while self._run_next_trial():
            publish_best(self.study, self.space, self.folder, self.identity)
        baseline = self._run_baseline(wait=True)
        assert baseline is not None
        told = self.callback.on_final_eval
        best, summary = summarize(self.study, self.space, self.folder, self.identity, baseline, told)
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
        callback = self.callback.on_run("baseline", {})
        raw, self.meter = held_base(self.space), Meter()
        experiment = raw.resolve()
        try:
            costs = TrialCosts(estimate_cost(experiment).to_dict(), experiment, {}, self.space.varied)
            metrics = self._planned(costs) | self._train_base(raw, run, callback, costs.own)
        except Exception as error:
            # A mistake in the base experiment stops the search, too: every trial would repeat it.
            if not isinstance(error, TrainingError) and not is_out_of_memory(error):
                raise
            reason = failure_reason(error)
            self.callback.on_result("baseline", "failed", reason, {})
            return BaselineResult(reason=reason)
        self.callback.on_result("baseline", "complete", "", metrics)
        return BaselineResult(metrics)

    def _train_base(
        self, raw: UnresolvedExperiment, run: Path, callback: Callback, costs: Mapping[str, float]
    ) -> dict[str, float]:
        if self.space.study.runs_per_trial == 1:
            return self._train(raw.resolve(), run, callback, costs, resume=True)
        return self._run_candidate(raw, run, [{}], "baseline", callback, costs).metrics

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
        self.meter = Meter()
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
        label, chosen = f"trial {trial.number}", choose_values(trial, self.space)
        values = chosen.values
        set_trial_attrs(self.study, trial, {"values": values})
        if chosen.problem:
            self.callback.on_run(label, values)
            raise InfeasibleTrial(chosen.problem)
        raw = apply_values(self.space.varied, values, self.space.base, label)
        if self.space.compare:
            raw = with_own_seed(self.study, trial, raw, values, self.space.study.runs_per_trial)
        settings = inner_values(self.space.inner, raw, self.space.study.seed)
        runs = len(settings) + self.space.study.runs_per_trial - 1
        callback = self.callback.on_run(label if runs == 1 else f"{label}, run 1 of {runs}", values | settings[0])
        experiment = raw.override(settings[0], "inner").resolve()
        costs = TrialCosts(estimate_cost(experiment).to_dict(), experiment, values, self.space.varied)
        set_trial_attrs(self.study, trial, {"costs": dict(costs.own)})
        self._require_feasible(trial, costs)
        planned = self._planned(costs)
        if self.space.planned:
            set_trial_attrs(self.study, trial, {"costs": planned})
        judge, folder = self._judge(trial, planned), trial_dir(self.folder, trial.number)
        self.meter = Meter(partial(self._note_spent, trial) if self.space.study.budget else None)
        if self.space.runs_per_trial == 1:
            resume = continue_retried(self.study, trial, self.folder, self.space.pruned_by, judge)
            callback = self._pruning(judge, experiment, callback)
            return planned | self._train(experiment, folder, callback, costs.own, resume)
        continue_runs(self.study, trial, self.folder)
        result = self._run_candidate(raw, folder, settings, label, callback, costs.own, judge)
        set_trial_attrs(self.study, trial, result.attrs)
        return planned | result.metrics

    def _judge(self, trial: Trial, costs: Mapping[str, float]) -> Judge | None:
        pruner = self.space.study.pruner
        if pruner and pruner.type == DOMINATED:
            return DominanceJudge(
                self.study, trial, DominanceConfig.parse(pruner.options, "study.pruner"), self.space.objectives, costs
            )
        return trial if self.space.can_prune else None

    def _pruning(self, judge: Judge | None, experiment: Experiment, callback: Callback) -> Callback:
        if judge is None:
            return callback
        return PruningCallback(judge, self.space.pruned_by, experiment.train.steps, callback)

    def _run_candidate(
        self,
        raw: UnresolvedExperiment,
        folder: Path,
        settings: Sequence[Mapping[str, Any]],
        label: str,
        first: Callback,
        costs: Mapping[str, float],
        judge: Judge | None = None,
    ) -> CandidateResult:
        """Run a candidate's settings and random seeds; `first` is the callback of its first run."""
        total = len(settings) + self.space.study.runs_per_trial - 1

        def train_one(
            experiment: Experiment, run: Path, index: int, chosen: Mapping[str, Any], judge: Judge | None
        ) -> dict[str, float]:
            name = f"{label}, run {index + 1} of {total}"
            callback = self.callback.on_run(name, chosen) if index else first
            return self._train(experiment, run, self._pruning(judge, experiment, callback), costs, resume=True)

        metric = self.space.pruned_by
        sign = self.space.sign_of(metric)
        runs = CandidateRuns(folder, train_one, metric, sign, judge, self.identity.search)
        return runs.run(raw, settings, self.space.study.runs_per_trial)

    def _note_spent(self, trial: Trial, spent: dict[str, float]) -> None:
        set_trial_attrs(self.study, trial, {"spent": spent})

    def _planned(self, costs: TrialCosts) -> dict[str, float]:
        """Return a trial's own costs, and the objectives that are planned."""
        planned = {name: costs.at(objective.place)[objective.metric] for name, objective in self.space.planned.items()}
        return {**costs.own, **planned}

    def _require_feasible(self, trial: Trial, costs: TrialCosts) -> None:
        problems = []
        for constraint in self.space.constraints:
            constrained = costs.at(constraint.place)
            violation = constraint.violation(constrained)
            trial.set_constraint(constraint.name, violation)
            if violation > 0:
                problems.append(
                    f"{constraint.name} is violated: {constraint.metric} is {constrained[constraint.metric]:g}"
                )
        if problems:
            raise InfeasibleTrial("; ".join(problems))

    def _train(
        self, experiment: Experiment, run: Path, callback: Callback, costs: Mapping[str, float], resume: bool = False
    ) -> dict[str, float]:
        callbacks = [self.meter.watch(costs["flops_per_token"]), callback]
        with _fresh_compiler():
            metrics = dict(train(experiment, run, callbacks=callbacks, resume=resume, force=True).metrics)
            speed = tokens_per_s(run)
            if "decode_us_per_token" in self.space.objectives:
                metrics["decode_us_per_token"] = decode_us_per_token(run)
        return metrics | ({"tokens_per_s": speed} if speed else {})


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    """Free compiled code and cached GPU memory when a run ends: the next trial has another model."""
    try:
        yield
    finally:
        torch.compiler.reset()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _require_finite(metrics: Mapping[str, float], name: str) -> float:
    value = metrics.get(name)
    if value is None or not math.isfinite(value):
        raise TrainingError(f"{name} is {value}")
    return value
