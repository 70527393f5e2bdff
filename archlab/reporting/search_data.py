"""The data of a search's report, read from the search's directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from archlab.searching.results.baseline import read_baseline
from archlab.searching.results.best_trial import best_trial
from archlab.searching.results.choices import PathResult, choice_results
from archlab.searching.results.shown_values import base_value, mark_gaps
from archlab.searching.results.summary import SearchSummary, read_summary
from archlab.searching.sampling.candidates import Noise, candidates_of, noise_of
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space
from archlab.searching.study.claims import require_own_dir, trial_dir
from archlab.searching.study.identity import read_identity, require_same_search
from archlab.searching.study.study import INTERRUPTED, is_interrupted, open_study
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.searching.variants import selectors
from archlab.training import metrics

INFEASIBLE = "infeasible"
_STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}


@dataclass(frozen=True)
class Run:
    """A trial or the baseline, with its validation loss by step.

    `place` is its directory within the search's, empty if there is none; `seed_values` are the first objective with
    each random seed, empty where there was one.
    """

    name: str
    state: str
    values: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[tuple[int, float]] = ()
    reason: str = ""
    place: str = ""
    seed_values: Sequence[float] = ()

    @property
    def title(self) -> str:
        """The name in a sentence."""
        return f"trial {self.name}" if self.name.isdigit() else self.name


@dataclass(frozen=True)
class SearchData:
    """The content of a search's directory; `summary` is None until the search has ended."""

    name: str
    folder: Path
    space: Space
    study: optuna.Study = field(repr=False)
    baseline: Run
    trials: Sequence[Run]
    summary: SearchSummary | None

    @property
    def best_trial(self) -> int | None:
        """The number of the best trial, once the search has ended."""
        return self.summary.best_trial.trial if self.summary and self.summary.best_trial else None

    @property
    def shown_paths(self) -> list[str]:
        """The paths of which each trial has a value: the varied ones, and those that are tuned for it."""
        return [*self.space.varied, *(self.space.inner.domains if self.space.inner else ())]

    @cached_property
    def best(self) -> Run | None:
        """The best trial, that of now while the search has not ended; None until one is complete."""
        found = self.best_trial if self.summary else getattr(best_trial(self.study), "number", None)
        return None if found is None else next((run for run in self.trials if run.name == str(found)), None)

    @cached_property
    def pareto(self) -> list[int]:
        """The numbers of the trials of the Pareto front, where there are several objectives."""
        if len(self.space.objectives) < 2:
            return []
        return self.summary.pareto if self.summary else [trial.number for trial in self.study.best_trials]

    @cached_property
    def noise(self) -> Noise | None:
        """The noise of the first objective between random seeds, or None where no trial had two."""
        return noise_of(candidates_of(self.study.get_trials(deepcopy=False), self.space.objective))

    @cached_property
    def choices(self) -> list[PathResult]:
        """The results of each choice of the varied paths."""
        return choice_results(self.space, self.study.get_trials(deepcopy=False))

    @cached_property
    def complete(self) -> list[Run]:
        """The completed trials."""
        return [trial for trial in self.trials if trial.state == "complete"]


def read_search(folder: Path) -> SearchData:
    """Read a search's directory; raise ArchlabError for a file that cannot be read, or is another search's."""
    space = load_space(folder / "search.yaml", recorded=True)
    study = open_study(space, folder, create=False)
    summary = read_summary(folder)
    require_same_search(summary.search_id if summary else "", read_identity(folder), folder / "summary.json")
    return SearchData(
        name=summary.search if summary else folder.resolve().name,
        folder=folder,
        space=space,
        study=study,
        baseline=_baseline(space, folder),
        trials=[_trial(trial, folder, space.objective) for trial in study.get_trials(deepcopy=False)],
        summary=summary,
    )


def _baseline(space: Space, folder: Path) -> Run:
    run = folder / "baseline"
    result, values, curve = read_baseline(run), _base_values(space), curve_of(run)
    place = "baseline" if run.is_dir() else ""
    if result is None:
        return Run("baseline", "running", values, curve=curve, place=place)
    state = "failed" if result.reason else "complete"
    return Run("baseline", state, values, result.metrics, curve, result.reason, place)


def _base_values(space: Space) -> dict[str, Any]:
    """Return the base experiment's values of the varied knobs, components by their names."""
    shown = [*space.varied, *(space.inner.domains if space.inner else ())]
    values = {path: base_value(space, path) for path in shown}
    return {path: value for path, value in values.items() if value is not None}


def _trial(trial: FrozenTrial, folder: Path, objective: str) -> Run:
    require_own_dir(folder, trial)
    attrs, run = trial_attrs(trial), trial_dir(folder, trial.number)
    records = metrics.read(run)
    # A running trial has no metrics in the study yet, and a pruned one never will: the run's log has the last ones.
    last = {name: value for record in records for name, value in record.items()}
    values = {path: mark_gaps(path, value) for path, value in attrs.get("values", {}).items()}
    return Run(
        name=f"{trial.number}",
        state=_state(trial, is_trained=bool(records)),
        values=values | attrs.get("tuned", {}),
        metrics={**attrs.get("costs", {}), **last, **attrs.get("metrics", {})},
        curve=_curve(records, "val_loss"),
        reason=attrs.get("reason", ""),
        place=f"trials/{run.name}" if run.is_dir() else "",
        seed_values=attrs.get("seed_metrics", {}).get(objective, ()),
    )


def _state(trial: FrozenTrial, *, is_trained: bool) -> str:
    if is_interrupted(trial):
        return INTERRUPTED
    reported = is_trained or trial.intermediate_values or trial_attrs(trial).get("reported")
    # Optuna has no state for infeasible trials: they are those that were pruned before their first step.
    return INFEASIBLE if trial.state == TrialState.PRUNED and not reported else _STATES[trial.state.name]


def curve_of(run: Path, metric: str = "val_loss") -> list[tuple[int, float]]:
    """Return a metric of a run by step."""
    return _curve(metrics.read(run), metric)


def _curve(records: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    return [(int(record["step"]), record[metric]) for record in records if record.get(metric) is not None]


def short_names(vary: Sequence[str]) -> dict[str, str]:
    """Return the shortest suffix of each path that no other path has."""
    parts = {path: selectors.split(path) for path in vary}
    depth = max(map(len, parts.values()), default=1)
    shortest = {}
    for path in vary:
        suffixes = (
            end for size in range(1, depth + 1) if not (end := selectors.join(parts[path][-size:])).startswith("[")
        )
        unique = (end for end in suffixes if sum(other == path or other.endswith(f".{end}") for other in vary) == 1)
        shortest[path] = next(unique, path)
    return shortest
