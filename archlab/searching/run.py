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
from archlab.modeling.cost import estimate
from archlab.searching.best_trial import promote, summarize
from archlab.searching.callbacks import Judge, SearchWatch, Unwatched
from archlab.searching.objectives import decode_us_per_token, tokens_per_s
from archlab.searching.search_dir import open_folder
from archlab.searching.space import Space, load_space
from archlab.searching.study import (
    claimed,
    ended,
    interrupt,
    is_exhausted,
    lock_file,
    note,
    open_study,
    reap,
    tell,
    trial_folder,
)
from archlab.searching.suggest import suggest
from archlab.storage.files import write_text
from archlab.storage.locks import lock
from archlab.training.callbacks import Silent, Watch
from archlab.training.trainer import train


@dataclass(frozen=True)
class Outcome:
    """Where a search lies, its best trial's number if any is complete, and the content of its summary.json."""

    folder: Path
    winner: int | None
    summary: Mapping[str, Any] = field(repr=False)


class Infeasible(ArchlabError):
    """A trial that breaks a constraint."""


def search(
    name: str | Path,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    trials: int | None = None,
    watch: SearchWatch | None = None,
    force: bool = False,
) -> Outcome:
    """Search a space in a folder, or go on with the search that the folder holds; `force` begins anew.

    Raises ArchlabError where the folder holds another search, naming the first difference.
    """
    space = load_space(name, overrides)
    total = trials if trials is not None else space.study.trials
    with open_folder(space, folder, force):
        return _Search(space, folder, total, watch or Unwatched()).run()


class _Search:
    """One worker."""

    def __init__(self, space: Space, folder: Path, total: int, watch: SearchWatch) -> None:
        self.space, self.folder, self.total, self.watch = space, folder, total, watch
        with lock(folder / ".study.lock", wait=True):  # two that begin a database at once get in each other's way
            self.study = open_study(space, folder)

    def run(self) -> Outcome:
        self.watch.on_search(self.space, len(ended(self.study)), self.total)
        self._baseline(wait=False)
        promote(self.study, self.space, self.folder)
        while self._one_trial():
            promote(self.study, self.space, self.folder)
        baseline = self._baseline(wait=True)
        winner = promote(self.study, self.space, self.folder)
        summary = summarize(self.study, self.space, self.folder, baseline)
        return Outcome(self.folder, winner.number if winner else None, summary)

    def _baseline(self, *, wait: bool) -> dict[str, Any]:
        """Train the base itself once; a worker that need not wait leaves it to the one that is at it."""
        run = self.folder / "baseline"
        result = run / "result.json"
        with lock(run / "lock", wait=wait) as mine:
            if mine and not result.is_file():
                write_text(result, json.dumps(self._train_baseline(run)))
        return json.loads(result.read_text()) if result.is_file() else {}

    def _train_baseline(self, run: Path) -> dict[str, Any]:
        watch = self.watch.on_run("baseline", {})
        experiment = self.space.base.resolve()
        try:
            metrics = dict(estimate(experiment)) | self._trained(experiment, run, watch or Silent(), resume=True)
        except TrainingError as error:
            self.watch.on_result("baseline", "failed", str(error), {})
            return {"metrics": {}, "reason": str(error)}
        self.watch.on_result("baseline", "complete", "", metrics)
        return {"metrics": metrics, "reason": ""}

    def _one_trial(self) -> bool:
        """Work on one trial; return False where enough are done or under way."""
        with ExitStack() as held:
            with lock(self.folder / ".study.lock", wait=True):
                reap(self.study, self.folder)
                if claimed(self.study) >= self.total or is_exhausted(self.study):
                    return False
                self.study.sampler = self._sampler()
                trial = self.study.ask()
                held.enter_context(lock(lock_file(self.folder, trial.number), wait=True))
            self._conduct(trial)
        return True

    def _sampler(self) -> optuna.samplers.BaseSampler:
        number = len(self.study.get_trials(deepcopy=False))
        return self.space.study.make_sampler(number, objectives=len(self.space.objectives))

    def _conduct(self, trial: Trial) -> None:
        """See a trial to its end, whatever that is, and keep what it showed."""
        state, reason = TrialState.FAIL, ""
        metrics: dict[str, float] = {}
        values: list[float] | None = None
        try:
            metrics = self._measure(trial)
            values = [_finite(metrics, name) for name in self.space.objectives]
            state = TrialState.COMPLETE
        except (optuna.TrialPruned, Infeasible) as error:
            state, reason = TrialState.PRUNED, one_line(error)
        except KeyboardInterrupt:
            frozen = self.study.get_trials()[trial.number]
            interrupt(self.study, frozen, self.folder, by_itself=False)
            raise
        except Exception as error:
            reason = reason_of(error)
        note(self.study, trial, {"reason": reason, "metrics": metrics})
        tell(self.study, trial, values, state)
        self.watch.on_result(f"trial {trial.number}", _WORDS[state], reason, metrics)

    def _measure(self, trial: Trial) -> dict[str, float]:
        values = suggest(trial, self.space.vary, self.space.base)
        note(self.study, trial, {"values": values})
        watch = self.watch.on_run(f"trial {trial.number}", values) or Silent()
        experiment = self.space.base.with_values(values, f"trial {trial.number}").resolve()
        costs = dict(estimate(experiment))
        note(self.study, trial, {"costs": costs})
        self._require_feasible(trial, costs, values)
        judge = Judge(trial, self.space.objective, experiment.train.steps, watch) if self.space.can_prune else watch
        return costs | self._trained(experiment, trial_folder(self.folder, trial.number), judge)

    def _require_feasible(self, trial: Trial, costs: Mapping[str, float], values: Mapping[str, Any]) -> None:
        broken = []
        for constraint in self.space.constraints:
            there = constraint.costs(costs, values, estimate)
            excess = constraint.excess(there)
            trial.set_constraint(constraint.name, excess)
            if excess > 0:
                broken.append(f"{constraint.name} is broken: {constraint.metric} is {there[constraint.metric]:g}")
        if broken:
            raise Infeasible("; ".join(broken))

    def _trained(self, experiment: Experiment, run: Path, watch: Watch, resume: bool = False) -> dict[str, float]:
        with _fresh_compiler():
            metrics = dict(train(experiment, run, watch=watch, resume=resume, force=True).metrics)
            speed = tokens_per_s(run)
            if "decode_us_per_token" in self.space.objectives:
                metrics["decode_us_per_token"] = decode_us_per_token(run)
        return metrics | ({"tokens_per_s": speed} if speed else {})


_WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


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


def reason_of(error: BaseException) -> str:
    """Say in one line why a run failed."""
    if isinstance(error, ConfigError):
        return f"{error.path}: {error.problem}"
    if isinstance(error, ArchlabError):
        return one_line(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return f"out of memory: {one_line(error)}"
    name, text = type(error).__name__, one_line(error)
    return name if text == name else f"{name}: {text}"
