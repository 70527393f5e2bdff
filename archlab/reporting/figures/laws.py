"""The losses of a ladder's candidates over parameters and FLOPs, with their laws and the uncertainty of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from archlab.errors import ArchlabError
from archlab.planning.fit_candidates import fit_candidates
from archlab.planning.forecast import Draws, interval
from archlab.reporting.figures.candidates import candidate_kinds
from archlab.reporting.figures.chart import Figure, Part, axis, band, chart, dots, intervals, key, line, panel
from archlab.reporting.figures.rungs import forecasts_of_target
from archlab.searching.ladder.results import RunResult, points
from archlab.searching.ladder.summary import LadderSummary

_BETWEEN = 8  # points of a law from one rung to the next


@dataclass(frozen=True)
class Size:
    """A size on the way from the smallest rung to the target: parameters, tokens, and the FLOPs of a run."""

    params: float
    tokens: float
    flops: float

    def towards(self, other: Size, share: float) -> Size:
        """Return the size at a share of the way, in the logarithm."""
        return Size(*(a * (b / a) ** share for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def law_panels(summary: LadderSummary) -> Figure | None:
    """Return the figure, or None where no run has a loss."""
    runs = [result for result in summary.results if result.loss is not None]
    if not runs:
        return None
    kinds, draws = candidate_kinds(summary), _draws(summary)
    sizes = {name: _sizes([run for run in _whole(runs) if run.candidate == name], summary, name) for name in kinds}
    views = (("params", "parameters without embeddings"), ("flops", "FLOPs of a run"))
    panels = [_panel(name, title, runs, sizes, draws, kinds, summary) for name, title in views]
    legend = [key("complete", "a run", "dot"), key("complete", "law", "line"), key("complete", "90 % band", "band")]
    if summary.target is not None and forecasts_of_target(summary):
        legend.append(key("complete", "forecast of the target, 90 %", "interval"))
    spec = chart(panels, legend if draws else legend[:1], min_width=480, columns=2, height=420)
    return Figure("laws", f"{summary.metric} over parameters and over FLOPs, with the laws of the candidates", spec)


def _whole(runs: Sequence[RunResult]) -> list[RunResult]:
    """Return the runs that are no branches of others."""
    return [run for run in runs if run.part == 1.0]


def _draws(summary: LadderSummary) -> Mapping[str, Draws]:
    """Return the bootstrap of the laws that the summary has: the same seed, so the same laws."""
    if summary.fit is None:
        return {}
    names = [found["candidate"] for found in _fits(summary)]
    target = (float(summary.fit["target"]["params"]), float(summary.fit["target"]["tokens"]))  # type: ignore[index, call-overload, arg-type]
    try:
        return fit_candidates(points(summary.results, names), dict.fromkeys(names, target), seed=0).draws
    except ArchlabError:  # a summary of another version, whose losses were fitted by other rules
        return {}


def _fits(summary: LadderSummary) -> Sequence[Mapping[str, Any]]:
    found: Any = (summary.fit or {}).get("candidates", [])
    return list(found)


def _sizes(runs: Sequence[RunResult], summary: LadderSummary, name: str) -> list[Size]:
    """Return the sizes of a candidate's rungs, and of the target where it is forecast there."""
    rungs = sorted({run.rung for run in runs})
    sizes = [_mean_size([run for run in runs if run.rung == rung]) for rung in rungs]
    figures = forecasts_of_target(summary).get(name)
    if sizes and figures and summary.target is not None:
        params, tokens, last = float(figures["params"]), float(summary.target["tokens"]), sizes[-1]  # type: ignore[arg-type]
        # A run's FLOPs grow as the product does, but for embeddings and attention.
        sizes.append(Size(params, tokens, last.flops * params / last.params * tokens / last.tokens))
    return sizes


def _mean_size(runs: Sequence[RunResult]) -> Size:
    return Size(*(fmean(getattr(run, name) for run in runs) for name in ("params", "tokens", "flops")))


def _panel(
    view: str,
    title: str,
    runs: Sequence[RunResult],
    sizes: Mapping[str, Sequence[Size]],
    draws: Mapping[str, Draws],
    kinds: Mapping[str, str],
    summary: LadderSummary,
) -> Part:
    bands: list[Part] = []
    marks: list[Part] = []
    for name, kind in kinds.items():
        mine = [run for run in runs if run.candidate == name]
        ends = sizes[name]
        if name in draws and len(ends) > 1:
            way = [a.towards(b, step / _BETWEEN) for a, b in pairwise(ends) for step in range(_BETWEEN)] + [ends[-1]]
            bands.append(band(kind, [(getattr(size, view), *_interval(draws[name], size)) for size in way]))
            law = [(getattr(size, view), draws[name].forecast(size.params, size.tokens)) for size in way]
            marks.append(line(f"{kind} law", law, label=name, silent=True))
        elif mine:
            means = [_mean_loss(mine, rung) for rung in _rungs(mine)]
            losses = [(getattr(size, view), loss) for size, loss in zip(ends, means, strict=False)]
            marks.append(line(f"{kind} dash", losses, label=name, silent=True))
        marks += _dots(kind, mine, view, name)
        marks += _target(kind, name, view, sizes[name], summary)
    values = [run.loss for run in runs if run.loss is not None]
    ends_y = [end for each in bands for bound in ("lo", "hi") for end in _floats(each[bound])]
    low = min([*values, *(end for end in ends_y if end > 0)])
    # Of the runs too: those of one rung differ, and a branch has fewer tokens than its rung.
    shown = [float(getattr(run, view)) for run in runs] + [getattr(s, view) for each in sizes.values() for s in each]
    return panel(axis(title, shown, log=True), axis(summary.metric, [low, max(values)], log=True), [*bands, *marks])


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]


def _interval(draws: Draws, size: Size) -> tuple[float, float]:
    return interval(draws.sample(size.params, size.tokens), draws.forecast(size.params, size.tokens))


def _rungs(runs: Sequence[RunResult]) -> list[int]:
    return sorted({run.rung for run in _whole(runs)})


def _mean_loss(runs: Sequence[RunResult], rung: int) -> float:
    return fmean(run.loss for run in _whole(runs) if run.rung == rung and run.loss is not None)


def _dots(kind: str, runs: Sequence[RunResult], view: str, name: str) -> list[Part]:
    """Return the dots of runs; a branch counts the steps of its trunk too, as a separate run would."""
    marks = []
    for shape, is_whole in (("circle", True), ("hollow", False)):
        mine = [run for run in runs if (run.part == 1.0) == is_whole and run.loss is not None]
        found = [(float(getattr(run, view)), run.loss) for run in mine if run.loss is not None]
        names = [f"{name}, rung {run.rung}, seed {run.seed}" for run in mine]
        marks += [dots(kind, found, shape=shape, names=names, size=4 if is_whole else 3)] if found else []
    return marks


def _target(kind: str, name: str, view: str, sizes: Sequence[Size], summary: LadderSummary) -> list[Part]:
    figures = forecasts_of_target(summary).get(name)
    if not figures or not sizes:
        return []
    x, (low, high) = getattr(sizes[-1], view), figures["interval"]
    point = [(x, float(figures["forecast"]))]
    names = [f"{name}, forecast of the target"]
    return [intervals(kind, [(x, low, high)]), dots(kind, point, shape="hollow", names=names, size=4.5)]
