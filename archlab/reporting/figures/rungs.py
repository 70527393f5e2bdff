"""Figures of a ladder by rung: forecasts and results, ranks, and the probability of being best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from archlab.reporting.figures.bars import bars
from archlab.reporting.figures.candidates import candidate_kinds
from archlab.reporting.figures.chart import Figure, Part, axis, categories, chart, dots, intervals, key, line, panel
from archlab.searching.ladder.summary import LadderSummary, RungSummary, forecast_of

_TARGET = "target"


def forecast_panels(summary: LadderSummary) -> Figure | None:
    """Return forecasts and losses of each rung side by side, or None where nothing was forecast in figures."""
    panels = [_forecast_panel(f"rung {rung.number}", forecast_of(rung), rung.losses) for rung in summary.rungs]
    panels.append(_forecast_panel(_TARGET, forecasts_of_target(summary), {}))
    shown = [each for each in panels if each is not None]
    if not shown:
        return None
    legend = [
        key("complete", "forecast, with its 90 % interval", "interval"),
        key("best", "result", "dot"),
        key("failed", "result, outside the interval", "dot", "diamond"),
    ]
    spec = chart(shown, legend, min_width=320, columns=3)
    return Figure("forecasts", "forecasts of each rung, written before it was trained, and results", spec)


def forecasts_of_target(summary: LadderSummary) -> Mapping[str, Mapping[str, Any]]:
    """Return the figures that are forecast of the target, by candidate."""
    found: Any = (summary.target or {}).get("candidates")
    return found if isinstance(found, dict) else {}


def _forecast_panel(title: str, forecasts: Mapping[str, Mapping[str, Any]], losses: Mapping[str, float]) -> Part | None:
    if not forecasts:
        return None
    names = sorted(forecasts, key=lambda name: (losses.get(name, float("inf")), forecasts[name]["forecast"]))
    ends = [forecasts[name]["interval"] for name in names]
    rows = [(float(place), float(low), float(high)) for place, (low, high) in enumerate(ends)]
    points = [(float(forecasts[name]["forecast"]), float(place)) for place, name in enumerate(names)]
    marks = [
        intervals("complete", rows),
        dots("complete", points, shape="median", names=[f"{n}, forecast" for n in names]),
    ]
    measured = [(losses[name], float(place), name) for place, name in enumerate(names) if name in losses]
    inside = [each for each in measured if rows[int(each[1])][1] <= each[0] <= rows[int(each[1])][2]]
    for kind, shape, some in (
        ("best", "circle", inside),
        ("failed", "diamond", [m for m in measured if m not in inside]),
    ):
        if some:
            marks.append(dots(kind, [(x, y) for x, y, _ in some], shape=shape, names=[name for *_, name in some]))
    shown = [end for _, low, high in rows for end in (low, high)] + [x for x, *_ in measured]
    return panel(axis("loss", shown), categories("", names) | {"label": ""}, marks, title)


def ranks(summary: LadderSummary) -> Figure | None:
    """Return the rank of each candidate at each rung, or None where there are no two rungs to compare."""
    trained = [rung for rung in summary.rungs if rung.losses]
    if len(trained) < 2:
        return None
    kinds = candidate_kinds(summary)
    places = {
        name: [(n, list(rung.losses).index(name)) for n, rung in enumerate(trained) if name in rung.losses]
        for name in kinds
    }
    marks: list[Part] = []
    for name, kind in kinds.items():
        if places[name]:
            marks.append(line(kind, places[name], label=name, name=name, silent=True))
            marks.append(dots(kind, places[name], names=[name] * len(places[name]), size=5))
    most = max(len(rung.losses) for rung in trained)
    y = categories("rank by the loss", [str(rank) for rank in range(1, most + 1)])
    spec = chart([panel(_rung_axis(trained), y, marks) | {"row": 28 if most <= 20 else 16}])
    return Figure("ranks", "rank of each candidate at each rung", spec)


def _rung_axis(rungs: Sequence[RungSummary], last: Sequence[str] = ()) -> Part:
    return categories("rung", [*(str(rung.number) for rung in rungs), *last])


def probabilities(summary: LadderSummary) -> Figure | None:
    """Return the probability of being best, as it was forecast of each rung and of the target, or None without any."""
    steps = [(f"rung {rung.number}", forecast_of(rung)) for rung in summary.rungs] + [
        (_TARGET, forecasts_of_target(summary))
    ]
    steps = [(title, found) for title, found in steps if found]
    if not steps:
        return None
    kinds = candidate_kinds(summary)
    if len(steps) == 1:
        title, found = steps[0]
        values = {name: float(figures["probability_best"]) for name, figures in found.items()}
        colors = [kinds.get(name, "c8") for name in values]
        label = f"probability of being the best of {title}"
        return bars("probabilities", label, values, colors, label=label, shown="{:.0%}")
    marks: list[Part] = []
    for name, kind in kinds.items():
        mine = [(n, float(found[name]["probability_best"])) for n, (_, found) in enumerate(steps) if name in found]
        if mine:
            marks.append(line(kind, mine, label=name, name=name, silent=True))
            marks.append(dots(kind, mine, names=[name] * len(mine)))
    y = axis("probability of being best", [], percent=True, domain=(0.0, 1.0))
    spec = chart([panel(categories("", [title for title, _ in steps]), y, marks)], height=300)
    return Figure("probabilities", "probability of being best, forecast of each rung and of the target", spec)
