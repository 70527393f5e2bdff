"""What a report shows of a search, read from its folder."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from archlab.config import paths
from archlab.errors import ArchlabError, one_line
from archlab.searching.space import Space, load_space
from archlab.searching.study import INTERRUPTED, is_interrupted, open_study, trial_dir
from archlab.searching.summary import SearchSummary, read_summary
from archlab.training import metrics
from archlab.training.run_dir import last_metrics

ENOUGH_FOR_IMPORTANCE = 4
_WORDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


@dataclass(frozen=True)
class Run:
    """A trial, or the baseline, with its evaluations by step."""

    name: str
    state: str
    values: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[tuple[int, float]] = ()
    reason: str = ""


@dataclass(frozen=True)
class SearchData:
    """A search folder's content; `summary` is None until the search has ended."""

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
    def complete(self) -> list[Run]:
        """The trials that were trained to their end."""
        return [trial for trial in self.trials if trial.state == "complete"]


def read_search(folder: Path) -> SearchData:
    """Read a search folder; raise ArchlabError where it cannot be read."""
    space = load_space(folder / "search.yaml")
    study = open_study(space, folder)
    summary = read_summary(folder)
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
    result = _read_json(run / "result.json")
    state = "running" if not result else "failed" if result.get("reason") else "complete"
    return Run("baseline", state, _values(space), result.get("metrics", {}), curve_of(run), result.get("reason", ""))


def _values(space: Space) -> dict[str, Any]:
    """Return what the base has where the space varies, components by their names."""
    base = space.base.resolve().resolved
    found = {path: paths.get(base, space.base.expand(path)[0]) for path in space.vary}
    return {path: _name_of(value) for path, value in found.items() if value is not None}


def _name_of(value: Any) -> Any:
    """Return a component's name where the value is one."""
    return value.get("type", value) if isinstance(value, Mapping) else value


def _trial(trial: FrozenTrial, folder: Path) -> Run:
    noted, run = trial.user_attrs, trial_dir(folder, trial.number)
    measured = {**noted.get("costs", {}), **last_metrics(run), **noted.get("metrics", {})}
    state = INTERRUPTED if is_interrupted(trial) else _WORDS[trial.state.name]
    return Run(f"{trial.number}", state, noted.get("values", {}), measured, curve_of(run), noted.get("reason", ""))


def curve_of(run: Path, metric: str = "val_loss") -> list[tuple[int, float]]:
    """Return a metric by step, where it was measured."""
    records = metrics.read(run)
    return [(int(record["step"]), record[metric]) for record in records if record.get(metric) is not None]


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise ArchlabError(f"{file}: cannot be read: {one_line(error)}") from error


def short_names(vary: Sequence[str]) -> dict[str, str]:
    """Return for each path its shortest ending that no other path has."""
    parts = {path: paths.split(path) for path in vary}
    depth = max(map(len, parts.values()), default=1)
    shortest = {}
    for path in vary:
        endings = (end for size in range(1, depth + 1) if not (end := paths.join(parts[path][-size:])).startswith("["))
        alone = (end for end in endings if sum(other == path or other.endswith(f".{end}") for other in vary) == 1)
        shortest[path] = next(alone, path)
    return shortest


def importances(data: SearchData) -> tuple[dict[str, float], str]:
    """Return how much each knob mattered to the first objective (PED-ANOVA), or nothing and the reason."""
    if len(data.complete) < ENOUGH_FOR_IMPORTANCE:
        need = f"{ENOUGH_FOR_IMPORTANCE} complete trials are needed, and there are {len(data.complete)}"
        return {}, f"Importances cannot be computed: {need}."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns of every target, also of one whose sign is right
            found = optuna.importance.get_param_importances(data.study, target=_cost(data))
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        return {}, f"Importances cannot be computed: {one_line(error)}"
    usable = {name: share for name, share in found.items() if math.isfinite(share)}
    return usable, "" if usable else "Importances cannot be computed: the trials differ too little."


def _cost(data: SearchData) -> Callable[[FrozenTrial], float]:
    """Return what PED-ANOVA takes, a figure that is better the smaller it is."""
    sign = -1.0 if data.space.objectives[data.space.objective] == "maximize" else 1.0
    return lambda trial: sign * trial.values[0] if trial.values else math.nan
