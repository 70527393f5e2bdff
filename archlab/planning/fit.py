"""Losses of candidates at small sizes to forecasts at a large one: `archlab fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from archlab.errors import ArchlabError
from archlab.planning.backtest import Backtest, backtest
from archlab.planning.decision import Decision, decide
from archlab.planning.fit_candidates import Candidates, fit_candidates
from archlab.planning.forecast import interval
from archlab.planning.losses import LossPoint, check_points, number_problem
from archlab.planning.scaling_law import Law

_NUMBERS = ("E", "A", "a", "B", "b")


@dataclass(frozen=True)
class CandidateForecast:
    """One candidate at the target: the mean loss over seeds, and the 90 % intervals of that mean and of one run.

    `law_interval` has the 90 % interval of each number of the law.
    """

    candidate: str
    forecast: float
    interval: tuple[float, float]
    run_interval: tuple[float, float]
    probability_best: float
    law: Law
    law_interval: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Target:
    """The target of a forecast: a model of `params` parameters without embeddings, trained on `tokens` tokens."""

    params: float
    tokens: float


@dataclass(frozen=True)
class Fit:
    """Forecasts, the best first, with notes on their reliability."""

    candidates: tuple[CandidateForecast, ...]
    backtest: Backtest
    shared_exponents: bool
    notes: tuple[str, ...]
    target: Target
    decision: Decision | None  # None for a single candidate

    def to_dict(self) -> dict[str, object]:
        """Return the fit as values that JSON has."""
        return asdict(self)


def fit_losses(points: Sequence[LossPoint], *, params: float, tokens: float, seed: int = 0) -> Fit:
    """Forecast the loss of every candidate at a target of `params` parameters and `tokens` tokens.

    `seed` is of the bootstrap: the same points and seed give the same figures, in whatever order the points are.
    Raises ArchlabError saying what is missing if the losses are too few, or do not determine the forecast.
    """
    check_points(points)
    for name, value in (("params", params), ("tokens", tokens)):
        if problem := number_problem(value):
            raise ArchlabError(f"the target's {name} {value!r} {problem}")
    fitted = fit_candidates(points, {point.candidate: (params, tokens) for point in points}, seed=seed)
    tested, decision = backtest(points, seed), decide(fitted, params, tokens)
    return Fit(
        _forecasts(fitted, params, tokens),
        tested,
        fitted.shared_exponents,
        fitted.notes + _note_crossing(tested, decision),
        Target(float(params), float(tokens)),
        decision,
    )


def _note_crossing(tested: Backtest, decision: Decision | None) -> tuple[str, ...]:
    if decision is None or not tested.ranking or tested.ranking[0] == decision.best:
        return ()
    return (f"{tested.ranking[0]} is best at the largest rung, {decision.best} is forecast best at the target",)


def _forecasts(fitted: Candidates, params: float, tokens: float) -> tuple[CandidateForecast, ...]:
    sampled = {name: draws.sample(params, tokens) for name, draws in fitted.draws.items()}
    best_S = np.array(list(sampled.values())).argmin(0)
    found = []
    for position, (name, draws) in enumerate(fitted.draws.items()):
        point, law = draws.forecast(params, tokens), draws.law_15[0]
        found.append(
            CandidateForecast(
                candidate=name,
                forecast=point,
                interval=interval(sampled[name], point),
                run_interval=interval(sampled[name] * np.exp(draws.run_noise_S), point),
                probability_best=float((best_S == position).mean()),
                law=Law(*map(float, law)),
                law_interval={
                    number: interval(draws.laws_S5[:, column], float(law[column]))
                    for column, number in enumerate(_NUMBERS)
                },
            )
        )
    return tuple(sorted(found, key=lambda one: one.forecast))
