"""Search: a baseline, then trials around the base experiment until their number is reached.

Any number of processes may work on one directory, and each may be stopped at any moment: the same command resumes
the search.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna
import torch
from optuna.trial import Trial, TrialState

from archlab.config.experiment import Experiment
from archlab.data.task import Task
from archlab.errors import ArchlabError, MachineError, TrainingError, one_line
from archlab.modeling.cost import estimate_cost
from archlab.runtime.outcome import Outcome, is_out_of_memory, iter_causes, outcome_of
from archlab.runtime.private_apis import breaks_process
from archlab.runtime.signals import stop_on_signals
from archlab.searching.apply import apply_values
from archlab.searching.baseline import BaselineResult, read_baseline
from archlab.searching.best_trial import publish_best, summarize
from archlab.searching.callbacks import PruningCallback, SearchCallback, SearchCallbackList
from archlab.searching.claims import claim, leave, trial_dir
from archlab.searching.database import DatabaseError
from archlab.searching.failures import InfeasibleTrial, failure_reason
from archlab.searching.identity import read_identity, require_same_search
from archlab.searching.objectives import decode_us_per_token, tokens_per_s
from archlab.searching.planned import TrialCosts
from archlab.searching.retries import continue_retried, leave_open
from archlab.searching.search_dir import open_search
from archlab.searching.space import Space
from archlab.searching.study import (
    count_claimed,
    fail_stale_trials,
    finished_trials,
    is_exhausted,
    open_study,
    record_result,
)
from archlab.searching.summary import SearchSummary
from archlab.searching.trial_attrs import set_trial_attrs
from archlab.searching.trial_values import choose_values, held_base
from archlab.storage.locks import lock
from archlab.training.callbacks import Callback
from archlab.training.trainer import train

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
                replace(self._train_baseline(run), search=self.identity.search).write(run)
        baseline = read_baseline(run)
        require_same_search(baseline.search if baseline else "", self.identity, run)
        return baseline

    def _train_baseline(self, run: Path) -> BaselineResult:
        callback = self.callback.on_run("baseline", {})
        experiment = held_base(self.space).resolve()
        try:
            costs = TrialCosts(estimate_cost(experiment).to_dict(), experiment, {}, self.space.varied)
            metrics = self._planned(costs) | self._train(experiment, run, callback, resume=True)
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
                if count_claimed(self.study) >= self.total or is_exhausted(self.study):
                    return False
                self.study.sampler = self._make_sampler()
                trial = self.study.ask()
                held.enter_context(claim(self.study, trial, self.folder, self.identity.search))
            try:
                self._run_trial(trial)
            except DatabaseError:
                leave(self.folder, trial.number)
                raise
        return True

    def _make_sampler(self) -> optuna.samplers.BaseSampler:
        number = len(self.study.get_trials(deepcopy=False))
        return self.space.study.make_sampler(number, objectives=len(self.space.objectives))

    def _run_trial(self, trial: Trial) -> None:
        """Run one trial and record its state, metrics and failure reason."""
        state, reason, is_broken = TrialState.FAIL, "", False
        metrics: dict[str, float] = {}
        values: list[float] | None = None
        try:
            metrics = self._objective(trial)
            values = [_require_finite(metrics, name) for name in self.space.objectives]
            state = TrialState.COMPLETE
        except (optuna.TrialPruned, InfeasibleTrial) as error:
            state, reason = TrialState.PRUNED, one_line(error)
        except BaseException as error:
            if outcome_of(error) is not Outcome.TRIAL:
                if not isinstance(error, DatabaseError):  # which has been waited for, and is still away
                    leave_open(self.study, trial.number, self.folder)
                raise
            reason, is_broken = failure_reason(error), any(map(breaks_process, iter_causes(error)))
        if not record_result(self.study, trial, {"reason": reason, "metrics": metrics}, values, state):
            state, reason = TrialState.FAIL, "another worker has closed this trial; its result there counts"
        self.callback.on_result(f"trial {trial.number}", STATE_NAMES[state], reason, metrics)
        if is_broken:  # the trial's own doing, which the next one must not pay for
            raise MachineError(f"trial {trial.number}: {reason}; this process cannot use the GPU any more")

    def _objective(self, trial: Trial) -> dict[str, float]:
        chosen = choose_values(trial, self.space)
        values = chosen.values
        set_trial_attrs(self.study, trial, {"values": values})
        callback = self.callback.on_run(f"trial {trial.number}", values)
        if chosen.problem:
            raise InfeasibleTrial(chosen.problem)
        source = f"trial {trial.number}"
        experiment = apply_values(self.space.varied, values, self.space.base, source).resolve()
        costs = TrialCosts(estimate_cost(experiment).to_dict(), experiment, values, self.space.varied)
        set_trial_attrs(self.study, trial, {"costs": dict(costs.own)})
        self._require_feasible(trial, costs)
        if self.space.can_prune:
            callback = PruningCallback(trial, self.space.objective, experiment.train.steps, callback)
        resume = continue_retried(
            self.study, trial, self.folder, self.space.objective if self.space.can_prune else None
        )
        planned = self._planned(costs)
        return planned | self._train(experiment, trial_dir(self.folder, trial.number), callback, resume)

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

    def _train(self, experiment: Experiment, run: Path, callback: Callback, resume: bool = False) -> dict[str, float]:
        with _fresh_compiler():
            metrics = dict(train(experiment, run, callbacks=[callback], resume=resume, force=True).metrics)
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
