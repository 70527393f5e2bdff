"""Search: trials around a base experiment, one after the other, until there are enough of them.

Any number of processes may work on one folder, and any of them may be stopped at any moment: the same command
goes on where they ended.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import Trial, TrialState

from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError, ConfigError, TrainingError, one_line
from archlab.modeling.cost import estimate_cost
from archlab.runtime.private_apis import is_out_of_memory
from archlab.searching.best_trial import publish_best, summarize
from archlab.searching.callbacks import PruningCallback, SearchCallback, SearchCallbackList
from archlab.searching.objectives import decode_us_per_token, tokens_per_s
from archlab.searching.search_dir import open_search
from archlab.searching.space import Space
from archlab.searching.study import (
    count_claimed,
    fail_stale_trials,
    finished_trials,
    is_exhausted,
    lock_file,
    mark_interrupted,
    open_study,
    set_trial_attrs,
    tell,
    trial_dir,
)
from archlab.searching.suggest import suggest
from archlab.searching.summary import SearchSummary
from archlab.storage.files import write_text
from archlab.storage.locks import lock
from archlab.training.callbacks import Callback
from archlab.training.trainer import train


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


class InfeasibleTrial(ArchlabError):
    """A trial that breaks a constraint."""


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
    total = trials if trials is not None else space.study.trials
    with open_search(space, folder, force):
        return SearchWorker(space, folder, total, SearchCallbackList(callbacks)).run()


class SearchWorker:
    """One worker."""

    def __init__(self, space: Space, folder: Path, total: int, callback: SearchCallback) -> None:
        self.space, self.folder, self.total, self.callback = space, folder, total, callback
        with lock(folder / ".study.lock", wait=True):  # two that begin a database at once get in each other's way
            self.study = open_study(space, folder)

    def run(self) -> SearchResult:
        """Work on trials until there are enough of them; return the result of the whole search."""
        self.callback.on_search(self.space, len(finished_trials(self.study)), self.total)
        self._baseline(wait=False)
        publish_best(self.study, self.space, self.folder)
        while self._one_trial():
            publish_best(self.study, self.space, self.folder)
        baseline = self._baseline(wait=True)
        best = publish_best(self.study, self.space, self.folder)
        summary = summarize(self.study, self.space, self.folder, baseline)
        return SearchResult(self.folder, best.number if best else None, summary)

    def _baseline(self, *, wait: bool) -> dict[str, Any]:
        """Train the base itself once; a worker that need not wait leaves it to the one that is at it."""
        run = self.folder / "baseline"
        result = run / "result.json"
        with lock(run / "lock", wait=wait) as mine:
            if mine and not result.is_file():
                write_text(result, json.dumps(self._train_baseline(run)))
        return json.loads(result.read_text()) if result.is_file() else {}

    def _train_baseline(self, run: Path) -> dict[str, Any]:
        callback = self.callback.on_run("baseline", {})
        experiment = self.space.base.resolve()
        try:
            metrics = estimate_cost(experiment).to_dict() | self._train(experiment, run, callback, resume=True)
        except TrainingError as error:
            self.callback.on_result("baseline", "failed", str(error), {})
            return {"metrics": {}, "reason": str(error)}
        self.callback.on_result("baseline", "complete", "", metrics)
        return {"metrics": metrics, "reason": ""}

    def _one_trial(self) -> bool:
        """Work on one trial; return False where enough are done or under way."""
        with ExitStack() as held:
            with lock(self.folder / ".study.lock", wait=True):
                fail_stale_trials(self.study, self.folder)
                if count_claimed(self.study) >= self.total or is_exhausted(self.study):
                    return False
                self.study.sampler = self._sampler()
                trial = self.study.ask()
                held.enter_context(lock(lock_file(self.folder, trial.number), wait=True))
            self._run_trial(trial)
        return True

    def _sampler(self) -> optuna.samplers.BaseSampler:
        number = len(self.study.get_trials(deepcopy=False))
        return self.space.study.make_sampler(number, objectives=len(self.space.objectives))

    def _run_trial(self, trial: Trial) -> None:
        """See a trial to its end, whatever that is, and keep what it showed."""
        state, reason = TrialState.FAIL, ""
        metrics: dict[str, float] = {}
        values: list[float] | None = None
        try:
            metrics = self._objective(trial)
            values = [_finite(metrics, name) for name in self.space.objectives]
            state = TrialState.COMPLETE
        except (optuna.TrialPruned, InfeasibleTrial) as error:
            state, reason = TrialState.PRUNED, one_line(error)
        except KeyboardInterrupt:
            frozen = self.study.get_trials()[trial.number]
            mark_interrupted(self.study, frozen, self.folder, by_itself=False)
            raise
        except Exception as error:
            reason = failure_reason(error)
        set_trial_attrs(self.study, trial, {"reason": reason, "metrics": metrics})
        tell(self.study, trial, values, state)
        self.callback.on_result(f"trial {trial.number}", STATE_NAMES[state], reason, metrics)

    def _objective(self, trial: Trial) -> dict[str, float]:
        values = suggest(trial, self.space.vary, self.space.base)
        set_trial_attrs(self.study, trial, {"values": values})
        callback = self.callback.on_run(f"trial {trial.number}", values)
        experiment = self.space.base.override(values, f"trial {trial.number}").resolve()
        costs = estimate_cost(experiment).to_dict()
        set_trial_attrs(self.study, trial, {"costs": costs})
        self._require_feasible(trial, costs, values)
        judge = (
            PruningCallback(trial, self.space.objective, experiment.train.steps, callback)
            if self.space.can_prune
            else callback
        )
        return costs | self._train(experiment, trial_dir(self.folder, trial.number), judge)

    def _require_feasible(self, trial: Trial, costs: Mapping[str, float], values: Mapping[str, Any]) -> None:
        broken = []
        for constraint in self.space.constraints:
            there = constraint.costs(costs, values)
            violation = constraint.violation(there)
            trial.set_constraint(constraint.name, violation)
            if violation > 0:
                broken.append(f"{constraint.name} is broken: {constraint.metric} is {there[constraint.metric]:g}")
        if broken:
            raise InfeasibleTrial("; ".join(broken))

    def _train(self, experiment: Experiment, run: Path, callback: Callback, resume: bool = False) -> dict[str, float]:
        with _fresh_compiler():
            metrics = dict(train(experiment, run, callbacks=[callback], resume=resume, force=True).metrics)
            speed = tokens_per_s(run)
            if "decode_us_per_token" in self.space.objectives:
                metrics["decode_us_per_token"] = decode_us_per_token(run)
        return metrics | ({"tokens_per_s": speed} if speed else {})


STATE_NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


@contextmanager
def _fresh_compiler() -> Iterator[None]:
    """Let a run's compiled code and memory go when it ends."""
    try:
        yield
    finally:
        torch.compiler.reset()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _finite(metrics: Mapping[str, float], name: str) -> float:
    value = metrics.get(name)
    if value is None or not math.isfinite(value):
        raise TrainingError(f"{name} is {value}")
    return value


def failure_reason(error: BaseException) -> str:
    """Say in one line why a run failed."""
    if isinstance(error, ConfigError):
        return f"{error.path}: {error.problem}"
    if isinstance(error, ArchlabError):
        return one_line(error)
    if is_out_of_memory(error):
        return f"out of memory: {one_line(error)}"
    name, text = type(error).__name__, one_line(error)
    return name if text == name else f"{name}: {text}"
