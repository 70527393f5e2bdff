"""Parallel coordinates: one line a trial, from its values to its objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archlab.reporting.figures.axes import KnobAxis, knob_axis
from archlab.reporting.figures.chart import Figure, Json, Part, axis, key, many_or_none, number, robust_top
from archlab.reporting.figures.runs import by_kind, legend, value_of
from archlab.reporting.search_data import Run, SearchData, short_names

_ABSENT, _WORSE = "–", "worse"
_SHADES = 5
_ORDER = ("q4", "q3", "q2", "q1", "q0", "base", "best")  # drawn last, and so over the others


def parallel_coordinates(data: SearchData) -> Figure | None:
    """Return the figure, or None until two trials have ended with values."""
    kinds = {kind: runs for kind, runs in by_kind(data).items() if kind not in ("waiting", "interrupted")}
    runs = [run for group in kinds.values() for _, run in group if run.values]
    if len(runs) < 2 or len(data.complete) < 2:
        return None
    short = short_names(data.shown_paths)
    knobs = [knob_axis(path, short[path], data, runs) for path in data.shown_paths]
    knobs = [knob for knob in knobs if knob.is_numeric or knob.names]
    axes: list[Json] = [_with_slots(knob.to_part(), _absent(knob, runs)) for knob in knobs]
    states = [kind for kind in kinds if kind not in ("complete", "base", "best")]
    axes += [_objective_axis(metric, data, states) for metric in data.space.objectives]
    tops = {metric: _worst_shown(metric, data) for metric in data.space.objectives}
    shades = _shades(data)
    lines = [
        (shades.get(run.name, kind), n, [*_places(run, knobs), *_results(kind, run, tops, data)])
        for kind, group in kinds.items()
        for n, run in group
        if run.values and (kind != "base" or all(value_of(run, metric) is not None for metric in tops))
    ]
    lines.sort(key=lambda line: _ORDER.index(line[0]) if line[0] in _ORDER else -1)
    rows: list[Json] = [{"t": n, "c": shade, "v": values} for shade, n, values in lines]
    legends = [key("q0", "better", "line"), key("q4", "worse", "line")]
    spec: Part = {"kind": "parallel", "axes": axes, "rows": rows, "many": many_or_none(len(rows))}
    spec["legend"] = [*legend([kind for kind in kinds if kind != "complete"], "line"), *legends]
    return Figure("coordinates", "parallel coordinates: the values of each trial and its result", spec)


def _with_slots(part: Part, slots: Sequence[str]) -> Part:
    return part | {"slots": list(slots)} if slots else part


def _absent(knob: KnobAxis, runs: Sequence[Run]) -> list[str]:
    return [_ABSENT] if any(knob.place(run) is None for run in runs) else []


def _worst_shown(metric: str, data: SearchData) -> float:
    values = [value for run in data.complete if (value := value_of(run, metric)) is not None]
    return robust_top(values, data.space.sign_of(metric))


def _objective_axis(metric: str, data: SearchData, states: Sequence[str]) -> Part:
    sign, top = data.space.sign_of(metric), _worst_shown(metric, data)
    values = [value for run in data.complete if (value := value_of(run, metric)) is not None]
    shown = [value for value in values if sign * value <= sign * top]
    baseline = value_of(data.baseline, metric)
    made = axis(metric, shown if baseline is None else [*shown, baseline])
    # Trials that ended early have no comparable value: their place is beyond the axis.
    return _with_slots(made, [*states, *([_WORSE] if len(shown) < len(data.complete) else [])])


def _places(run: Run, knobs: Sequence[KnobAxis]) -> list[Json]:
    return [_ABSENT if (place := knob.place(run)) is None else number(place) for knob in knobs]


def _results(kind: str, run: Run, tops: Mapping[str, float], data: SearchData) -> list[Json]:
    if kind not in ("complete", "base", "best"):
        return [kind] * len(tops)
    return [_result(kind, value_of(run, metric), data.space.sign_of(metric), top) for metric, top in tops.items()]


def _result(kind: str, value: float | None, sign: float, top: float) -> Json:
    if value is None:  # it is not finite
        return _WORSE
    return _WORSE if kind == "complete" and sign * value > sign * top else number(value)


def _shades(data: SearchData) -> dict[str, str]:
    """Return the shade of each trial but the best by its rank: a fifth of the trials each."""
    sign, objective = data.space.sign, data.space.objective
    ordered = sorted(data.complete, key=lambda run: sign * run.metrics[objective])
    shades = {run.name: f"q{_SHADES * rank // len(ordered)}" for rank, run in enumerate(ordered)}
    return {name: shade for name, shade in shades.items() if data.best is None or name != data.best.name}
