"""The tables of a search: all trials, failures with their reasons, and the Pareto front."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from archlab.reporting.figures.costs import front, planes
from archlab.reporting.figures.runs import value_of
from archlab.reporting.format import brief
from archlab.reporting.html import Link, State, table
from archlab.reporting.search_data import Run, SearchData, short_names
from archlab.text import shorten

_COLUMNS = {
    "val_loss": "val loss",
    "val_bpb": "val bpb",
    "val_accuracy": "val accuracy",
    "params": "params",
    "tokens_per_s": "tokens/s",
}
_REASON = 200


def trials_table(data: SearchData) -> str:
    """Return the table of the baseline and all trials: results first, then parameters."""
    short, runs = short_names(data.shown_paths), (data.baseline, *data.trials)
    columns = dict.fromkeys(data.space.objectives) | dict.fromkeys(_COLUMNS)
    shown = [name for name in columns if any(name in run.metrics for run in runs)]
    has_reason = any(run.reason for run in runs)
    head = ["trial", "state", *(_COLUMNS.get(name, name) for name in shown), *_noise_head(data), *short.values()]
    rows = [(_row_kind(run, data), _row(run, data, shown, has_reason)) for run in runs]
    ids = [f"run-{number}" for number in range(len(rows))]
    return table([*head, *(["reason"] if has_reason else [])], rows, name="trials", ids=ids)


def _noise_head(data: SearchData) -> list[str]:
    return ["vs. baseline", *(["± seeds"] if data.noise else [])]


def _row_kind(run: Run, data: SearchData) -> str:
    return "best" if run is data.best else "baseline" if run is data.baseline else ""


def _row(run: Run, data: SearchData, shown: Sequence[str], has_reason: bool) -> list[Any]:
    values = [brief(run.values[path]) if path in run.values else "" for path in data.shown_paths]
    name: Any = Link(run.name, f"{run.place}/") if run.place else run.name
    cells = [name, State(run.state), *(value_of(run, metric) for metric in shown), *_against_baseline(run, data)]
    return [*cells, *values, *([shorten(run.reason, _REASON)] if has_reason else [])]


def _against_baseline(run: Run, data: SearchData) -> list[float | None]:
    objective = data.space.objective
    own, base = value_of(run, objective), value_of(data.baseline, objective)
    is_known = own is not None and base is not None and run.state == "complete" and run is not data.baseline
    difference = own - base if is_known and own is not None and base is not None else None
    if data.noise is None:
        return [difference]
    own_seeds, base_seeds = max(len(run.seed_values), 1), max(data.space.study.runs_per_trial, 1)
    spread = data.noise.std * (1 / own_seeds + 1 / base_seeds) ** 0.5
    return [difference, spread if difference is not None else None]


def reasons_table(data: SearchData) -> str:
    """Return why trials did not complete, the same reasons together, or nothing if all did."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in (data.baseline, *data.trials):
        if run.reason or run.state in ("failed", "infeasible", "pruned"):
            groups.setdefault((run.state, _without_numbers(run.reason)), []).append(run)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1])))
    rows = [("", (State(state), len(runs), _reason(runs), _names(runs))) for (state, _), runs in ordered]
    return table(["state", "trials", "reason", "which"], rows, name="not-complete") if rows else ""


def _without_numbers(reason: str) -> str:
    return re.sub(r"\d[\d.,e+-]*", "#", reason)


def _reason(runs: Sequence[Run]) -> str:
    first = shorten(runs[0].reason, _REASON) or "no reason was recorded"
    return first if len({run.reason for run in runs}) == 1 else f"{first} (and alike)"


def _names(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    return ", ".join(names) if len(names) <= 12 else f"{', '.join(names[:12])}, and {len(names) - 12} more"


def front_table(data: SearchData) -> str:
    """Return every trial of a Pareto front, with all metrics that span one."""
    pairs = planes(data)
    names = {run.name for plane in pairs for run in front(plane, data.complete)} | set(map(str, data.pareto))
    metrics = list(dict.fromkeys(metric for plane in pairs for metric in (plane.y, plane.x)))
    members = sorted((run for run in data.complete if run.name in names), key=lambda run: run.metrics[metrics[0]])
    of_all = set(map(str, data.pareto))
    head = ["trial", *metrics, *(["on the front of all objectives"] if of_all else [])]
    rows = []
    for run in (*members, data.baseline):
        marked = ["yes" if run.name in of_all else ""] if of_all else []
        rows.append((_row_kind(run, data), [run.name, *(value_of(run, metric) for metric in metrics), *marked]))
    return table(head, rows, name="pareto-front", narrow=True)
