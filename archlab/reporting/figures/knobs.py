"""The results of each value of each knob: one small panel per knob, without a fitted model."""

from __future__ import annotations

import statistics

from archlab.reporting.figures.axes import KnobAxis, knob_axis
from archlab.reporting.figures.chart import Figure, Part, axis, chart, dots, key, panel, robust_top, rule
from archlab.reporting.figures.runs import by_kind, legend, shape_of, value_of
from archlab.reporting.format import axis_title
from archlab.reporting.search_data import Run, SearchData, short_names

_MOST = 12  # choices in a panel


def knob_panels(data: SearchData) -> tuple[Figure, str] | None:
    """Return the figure and a note about values left out, or None until two trials are complete."""
    runs, objective = data.complete, data.space.objective
    values = [value for run in runs if (value := value_of(run, objective)) is not None]
    if len(values) < 2:
        return None
    worst = robust_top(values, data.space.sign)
    shown = [value for value in values if data.space.sign * value <= data.space.sign * worst]
    short = short_names(data.shown_paths)
    axes = [knob_axis(path, short[path], data, [*runs, data.baseline]) for path in data.shown_paths]
    scale = axis(axis_title(objective), [*shown, *_of(data.baseline, objective)])
    # Panels of one height stand in one row.
    axes.sort(key=lambda each: each.is_numeric)
    panels = [_panel(each, data, scale) for each in axes if each.is_numeric or len(each.names) > 1]
    if not panels:
        return None
    kinds = [kind for kind in by_kind(data) if kind in ("complete", "base", "best")]
    keys = [*legend(kinds, "dot"), key("complete", "median of a choice", "dot", "median")]
    spec = chart(panels, keys, many=len(runs), min_width=300, columns=3, height=240)
    cut = [each.label for each in axes if len(each.names) > _MOST]
    note = f"Of {', '.join(cut)} the {_MOST} choices with the best results are shown." if cut else ""
    return Figure("knobs", f"{objective} by the value of each knob", spec), note


def _of(run: Run, metric: str) -> list[float]:
    value = value_of(run, metric)
    return [] if value is None else [value]


def _panel(knob: KnobAxis, data: SearchData, scale: Part) -> Part:
    if knob.is_numeric:
        return panel(knob.to_part(), scale, _dots(knob, data, is_flat=False), knob.label)
    kept = KnobAxis(knob.path, knob.label, _best_names(knob, data), False)
    medians = [(_median(kept, index, data), index) for index in range(len(kept.names))]
    marks = [*_dots(kept, data, is_flat=True)]
    found = [(median, index) for median, index in medians if median is not None]
    if found:
        names = [f"median of {kept.names[int(index)]}" for _, index in found]
        marks.append(dots("complete", found, shape="median", names=names))
    baseline = value_of(data.baseline, data.space.objective)
    marks += [rule("base", x=baseline)] if baseline is not None else []
    return panel(scale, kept.to_part() | {"label": ""}, marks, knob.label)


def _dots(knob: KnobAxis, data: SearchData, *, is_flat: bool) -> list[Part]:
    marks = []
    for kind, runs in by_kind(data).items():
        if kind not in ("complete", "base", "best"):
            continue
        found = [(n, knob.place(run), value_of(run, data.space.objective)) for n, run in runs]
        whole = [(n, place, value) for n, place, value in found if place is not None and value is not None]
        points = [(value, place) if is_flat else (place, value) for _, place, value in whole]
        if points:
            numbers, size = [n for n, _, _ in whole], 5.5 if kind == "best" else 4
            marks.append(dots(kind, points, shape=shape_of(kind), runs=numbers, swarm=is_flat, size=size))
    return marks


def _values(knob: KnobAxis, index: int, data: SearchData) -> list[float]:
    mine = [run for run in data.complete if knob.place(run) == index]
    return [value for run in mine if (value := value_of(run, data.space.objective)) is not None]


def _median(knob: KnobAxis, index: int, data: SearchData) -> float | None:
    values = _values(knob, index, data)
    return statistics.median(values) if values else None


def _best_names(knob: KnobAxis, data: SearchData) -> tuple[str, ...]:
    if len(knob.names) <= _MOST:
        return knob.names
    best = {
        i: min((data.space.sign * v for v in _values(knob, i, data)), default=float("inf"))
        for i in range(len(knob.names))
    }
    kept = sorted(best, key=lambda index: best[index])[:_MOST]
    return tuple(knob.names[index] for index in kept)
