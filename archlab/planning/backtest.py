"""Backtests of forecasts: the largest rung held out, and rankings from rung to rung."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import fmean

import numpy as np

from archlab.errors import ArchlabError
from archlab.planning.fit_candidates import fit_candidates
from archlab.planning.forecast import Draws, interval
from archlab.planning.losses import LossPoint

_SAME_SIZE = 1.2  # sizes of candidates that differ by less are one rung: heads and widths do not divide alike


@dataclass(frozen=True)
class RankAgreement:
    """How far a ranking holds at a larger size: the share of pairs in the same order, and Spearman's correlation."""

    pairs: int
    decision_accuracy: float
    spearman: float


@dataclass(frozen=True)
class RungAgreement:
    """The agreement of the rankings of two rungs, given by their mean sizes."""

    small: float
    large: float
    agreement: RankAgreement


@dataclass(frozen=True)
class HeldOut:
    """A candidate's largest run, forecast from its smaller ones: `interval` is of the mean of as many seeds."""

    candidate: str
    params: float
    tokens: float
    loss: float
    forecast: float
    interval: tuple[float, float]
    relative_error: float
    is_inside: bool


@dataclass(frozen=True)
class Backtest:
    """The largest rung held out, and the plain ranking there beside it.

    `ranking` is by the mean loss at the largest rung that all candidates have; `forecast_agreement` and
    `plain_agreement` compare with it the rankings by the laws of smaller rungs, and of the next smaller rung.
    """

    held_out: tuple[HeldOut, ...]
    ranking: tuple[str, ...]
    forecast_agreement: RankAgreement | None
    plain_agreement: RankAgreement | None
    rungs: tuple[RungAgreement, ...]
    notes: tuple[str, ...]


def rank_agreement(small: Mapping[str, float], large: Mapping[str, float]) -> RankAgreement:
    """Compare the losses of the same candidates at two sizes; raise ArchlabError for fewer than two in common."""
    names = [name for name in small if name in large]
    if len(names) < 2:
        raise ArchlabError("rankings of at least two candidates in common are needed")
    pairs = [_decision(small, large, a, b) for a, b in combinations(names, 2)]
    x, y = _ranks([small[name] for name in names]), _ranks([large[name] for name in names])
    spread = x.std() * y.std()
    spearman = float(((x - x.mean()) * (y - y.mean())).mean() / spread) if spread else 0.0
    return RankAgreement(len(pairs), fmean(pairs), spearman)


def _decision(small: Mapping[str, float], large: Mapping[str, float], a: str, b: str) -> float:
    """Return 1 for a pair in the same order, 0 for another order, and a half where one of them is a tie."""
    product = float(np.sign(small[a] - small[b]) * np.sign(large[a] - large[b]))
    return (1 + product) / 2


def _ranks(values: Sequence[float]) -> np.ndarray:
    array = np.array(values)
    return (array[:, None] > array).sum(1) + ((array[:, None] == array).sum(1) - 1) / 2


def backtest(points: Sequence[LossPoint], seed: int) -> Backtest:
    """Hold the largest rung out, forecast it, and compare rankings."""
    notes: list[str] = []
    held_out = _hold_out(points, seed, notes)
    rungs = _rungs(points)
    agreements = tuple(
        RungAgreement(small, large, rank_agreement(rungs[small], rungs[large])) for small, large in pairwise(rungs)
    )
    last = rungs[max(rungs)] if rungs else {}
    forecasts = {one.candidate: one.forecast for one in held_out}
    measured = {one.candidate: one.loss for one in held_out}
    return Backtest(
        tuple(held_out),
        tuple(sorted(last, key=last.__getitem__)),
        rank_agreement(forecasts, measured) if len(forecasts) > 1 else None,
        agreements[-1].agreement if agreements else None,
        agreements,
        tuple(notes),
    )


def _hold_out(points: Sequence[LossPoint], seed: int, notes: list[str]) -> list[HeldOut]:
    """Forecast the largest size of each candidate, at its most tokens, from the sizes below."""
    largest: dict[str, float] = {}
    for point in points:
        largest[point.candidate] = max(point.params, largest.get(point.candidate, 0.0))
    rest = [point for point in points if point.params < largest[point.candidate] / 1.01]
    top = [point for point in points if point.params >= largest[point.candidate] / 1.01]
    most = {point.candidate: point for point in sorted(top, key=lambda point: point.tokens)}
    targets = {name: (point.params, point.tokens) for name, point in sorted(most.items())}
    draws = _fit_rest(rest, targets, seed, notes)
    losses = {name: [p.loss for p in top if (p.candidate, p.tokens) == (name, targets[name][1])] for name in draws}
    return [_compare(name, draws[name], targets[name], losses[name]) for name in draws]


def _fit_rest(
    rest: Sequence[LossPoint], targets: Mapping[str, tuple[float, float]], seed: int, notes: list[str]
) -> dict[str, Draws]:
    """Fit all candidates together, or each by itself where one of them has too few sizes without its largest."""
    try:
        if {point.candidate for point in rest} == set(targets):
            return fit_candidates(rest, targets, seed=seed).draws
    except ArchlabError:
        pass
    draws: dict[str, Draws] = {}
    for name in targets:
        mine = [point for point in rest if point.candidate == name]
        if not mine:
            notes.append(f"{name}: has one size only, and none to forecast it from")
            continue
        try:
            draws |= fit_candidates(mine, targets, seed=seed).draws
        except ArchlabError as error:
            notes.append(f"without its largest size, {error}")
    return draws


def _compare(name: str, draws: Draws, target: tuple[float, float], losses: Sequence[float]) -> HeldOut:
    point, loss = draws.forecast(*target), float(np.exp(np.log(losses).mean()))
    # The mean that was measured has noise of its own, of its few seeds.
    low, high = interval(draws.sample(*target) * np.exp(draws.run_noise_S / np.sqrt(len(losses))), point)
    return HeldOut(name, *target, loss, point, (low, high), point / loss - 1, low <= loss <= high)


def _rungs(points: Sequence[LossPoint]) -> dict[float, dict[str, float]]:
    """Return the mean losses of the candidates at each size that all have, at the most tokens that all have there."""
    names = sorted({point.candidate for point in points})
    rungs: dict[float, dict[str, float]] = {}
    for rung in _clusters(points, "params"):
        for cell in reversed(_clusters(rung, "tokens")):
            if len(names) > 1 and {point.candidate for point in cell} == set(names):
                size = fmean(point.params for point in cell)
                rungs[size] = {name: fmean(p.loss for p in cell if p.candidate == name) for name in names}
                break
    return rungs


def _clusters(points: Sequence[LossPoint], column: str) -> list[list[LossPoint]]:
    clusters: list[list[LossPoint]] = []
    for point in sorted(points, key=lambda point: float(getattr(point, column))):
        if clusters and getattr(point, column) < _SAME_SIZE * getattr(clusters[-1][0], column):
            clusters[-1].append(point)
        else:
            clusters.append([point])
    return clusters
