"""Forecasts of candidates at an untrained size: by laws where losses allow, else by ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from archlab.errors import ArchlabError, one_line
from archlab.planning.fit import CandidateForecast, Fit, fit_losses
from archlab.searching.ladder.forecasts import ForecastDraft, Json
from archlab.searching.ladder.results import RunResult, mean_losses, points

BY_LAW, BY_LOSS = "law", "loss at the largest rung"


@dataclass(frozen=True)
class Aim:
    """A size to forecast: parameters without embeddings, and tokens."""

    params: float
    tokens: float


def fit(results: Sequence[RunResult], candidates: Sequence[str], aim: Aim) -> Fit | str:
    """Fit the laws of candidates for a size, or return why their losses do not allow it."""
    try:
        return fit_losses(points(results, candidates), params=aim.params, tokens=aim.tokens)
    except ArchlabError as error:
        return one_line(error)


def draft_forecast(
    results: Sequence[RunResult],
    candidates: Sequence[str],
    aim: Aim,
    own_params: Mapping[str, float],
    metric: str,
) -> ForecastDraft:
    """Forecast candidates at a size, each at the number of parameters that it has there."""
    fitted = fit(results, candidates, aim)
    plain = [name for name in mean_losses(last_rung(results)) if name in candidates]
    if isinstance(fitted, str):
        return ForecastDraft(metric, aim.params, aim.tokens, BY_LOSS, plain, problem=fitted)
    ranking = [found.candidate for found in fitted.candidates]
    figures: dict[str, Json] = {
        found.candidate: _figures(found, aim, own_params.get(found.candidate, aim.params))
        for found in fitted.candidates
    }
    return ForecastDraft(metric, aim.params, aim.tokens, BY_LAW, ranking, figures)


def _figures(found: CandidateForecast, aim: Aim, params: float) -> dict[str, Json]:
    # Widths come in steps, so that a candidate has a few percent more or less parameters than the rung is meant to.
    shift = found.law(params, aim.tokens) - found.law(aim.params, aim.tokens)
    return {
        "params": float(params),
        "forecast": found.forecast + shift,
        "interval": [end + shift for end in found.interval],
        "run_interval": [end + shift for end in found.run_interval],
        "probability_best": found.probability_best,
    }


def last_rung(results: Sequence[RunResult]) -> list[RunResult]:
    """Return the results of the largest rung that has any."""
    last = max((result.rung for result in results), default=0)
    return [result for result in results if result.rung == last]
