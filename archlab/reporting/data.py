"""The data of a search's report, read from the search's directory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from archlab.errors import one_line
from archlab.searching.results.baseline import read_baseline
from archlab.searching.results.choices import PathResult, choice_results
from archlab.searching.results.shown_values import base_value, mark_gaps
from archlab.searching.results.summary import SearchSummary, read_summary
from archlab.searching.space.search_space import Space, load_space
from archlab.searching.study.claims import require_own_dir, trial_dir
from archlab.searching.study.identity import read_identity, require_same_search
from archlab.searching.study.study import INTERRUPTED, is_interrupted, open_study
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.searching.variants import selectors
from archlab.training import metrics
from archlab.training.run_dir import last_metrics

MIN_TRIALS_FOR_IMPORTANCE = 4
_STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}


@dataclass(frozen=True)
class Run:
    """A trial or the baseline, with its validation loss by step."""

    name: str
    state: str
    values: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[tuple[int, float]] = ()
    reason: str = ""


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

    @property
    def choices(self) -> list[PathResult]:
        """The results of each choice of the varied paths."""
        return choice_results(self.space, self.study.get_trials(deepcopy=False))

    @property
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
        baseline=_baseline(space, folder / "baseline"),
        trials=[_trial(trial, folder) for trial in study.get_trials(deepcopy=False)],
        summary=summary,
    )


def _baseline(space: Space, run: Path) -> Run:
    result, values, curve = read_baseline(run), _base_values(space), curve_of(run)
    if result is None:
        return Run("baseline", "running", values, curve=curve)
    return Run("baseline", "failed" if result.reason else "complete", values, result.metrics, curve, result.reason)


def _base_values(space: Space) -> dict[str, Any]:
    """Return the base experiment's values of the varied knobs, components by their names."""
    shown = [*space.varied, *(space.inner.domains if space.inner else ())]
    values = {path: base_value(space, path) for path in shown}
    return {path: value for path, value in values.items() if value is not None}


def _trial(trial: FrozenTrial, folder: Path) -> Run:
    require_own_dir(folder, trial)
    attrs, run = trial_attrs(trial), trial_dir(folder, trial.number)
    # A running trial has no metrics in the study yet, and a pruned one never will: the run's log has the last ones.
    metrics = {**attrs.get("costs", {}), **last_metrics(run), **attrs.get("metrics", {})}
    state = INTERRUPTED if is_interrupted(trial) else _STATES[trial.state.name]
    values = {path: mark_gaps(path, value) for path, value in attrs.get("values", {}).items()}
    values |= attrs.get("tuned", {})
    return Run(f"{trial.number}", state, values, metrics, curve_of(run), attrs.get("reason", ""))


def curve_of(run: Path, metric: str = "val_loss") -> list[tuple[int, float]]:
    """Return a metric of a run by step."""
    records = metrics.read(run)
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


def importances(data: SearchData) -> tuple[dict[str, float], str]:
    """Return the PED-ANOVA importance of each knob for the first objective, or an empty mapping and the reason."""
    if len(data.complete) < MIN_TRIALS_FOR_IMPORTANCE:
        need = f"{MIN_TRIALS_FOR_IMPORTANCE} complete trials are needed, and there are {len(data.complete)}"
        return {}, f"Importances cannot be computed: {need}."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns of any custom target, whatever its sign
            shares = optuna.importance.get_param_importances(data.study, target=_loss_of(data))
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        return {}, f"Importances cannot be computed: {one_line(error)}"
    usable = {name: share for name, share in shares.items() if math.isfinite(share)}
    return usable, "" if usable else "Importances cannot be computed: the trials differ too little."


def _loss_of(data: SearchData) -> Callable[[FrozenTrial], float]:
    """Return the target of PED-ANOVA, which expects lower values to be better."""
    sign = -1.0 if data.space.objectives[data.space.objective] == "maximize" else 1.0
    return lambda trial: sign * trial.values[0] if trial.values else math.nan
