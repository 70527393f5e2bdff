"""Whether the best candidate can be distinguished from the next, and what would be needed if not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from archlab.planning.fit_candidates import Candidates
from archlab.planning.law_design import Floats
from archlab.planning.scaling_law import Runs

DECIDED = 0.9
_NEEDED = 1.2816  # standard errors that a gap has to be, for a probability of 0.9
_MOST_SEEDS = 50
_MOST_RUNGS = 8
# Standard deviations of log E, of the logarithms of both terms, and of log a and log b, before any loss is seen.
_PRIOR = np.array([1.0, 2.0, 2.0, 0.7, 0.7])


@dataclass(frozen=True)
class Decision:
    """The candidate that is forecast best and the one most likely to be better instead.

    `gap` is the difference of their losses, with its 90 % interval; `advice` says what would distinguish them.
    """

    best: str
    rival: str
    probability_best: float
    gap: float
    gap_interval: tuple[float, float]
    is_decided: bool
    advice: str


def decide(fitted: Candidates, params: float, tokens: float) -> Decision | None:
    """Compare the best forecasts; None for a single candidate."""
    if len(fitted.draws) < 2:
        return None
    points = {name: draws.forecast(params, tokens) for name, draws in fitted.draws.items()}
    sampled = {name: draws.sample(params, tokens) for name, draws in fitted.draws.items()}
    best = min(points, key=points.__getitem__)
    rival = max((name for name in points if name != best), key=lambda name: _wins(sampled, name, best))
    probability = float((np.array(list(sampled.values())).argmin(0) == list(sampled).index(best)).mean())
    gap, gap_S = points[rival] - points[best], sampled[rival] - sampled[best]
    low, high = (float(value) for value in np.quantile(gap_S, (0.05, 0.95)))
    is_decided = probability >= DECIDED
    advice = "" if is_decided else _advise(fitted, (best, rival), (params, tokens), gap, (high - low) / 3.29)
    return Decision(best, rival, probability, gap, (low, high), is_decided, advice)


def _wins(sampled: dict[str, Floats], name: str, best: str) -> float:
    return float((sampled[name] < sampled[best]).mean())


def _advise(fitted: Candidates, pair: tuple[str, str], target: tuple[float, float], gap: float, error: float) -> str:
    """Say how many seeds, or which further sizes, would distinguish two candidates."""
    start = f"stop: {pair[0]} and {pair[1]} cannot be distinguished at this budget"
    times = np.inf if gap <= 0 else (_NEEDED * error / gap) ** 2
    ways = []
    if times <= _MOST_SEEDS:
        ways.append(f"{max(2, int(np.ceil(times)))} times as many seeds")
    size = _size_needed(fitted, pair, target, gap / error if error > 0 else np.inf)
    if size is not None:
        ways.append(f"further sizes up to {size:.2g} params")
    if not ways:
        return f"{start}, nor by {_MOST_SEEDS} times as many seeds: choose by something other than the loss"
    return f"{start}; {' or '.join(ways)} would, if the gap is as forecast and the noise stays"


def _size_needed(
    fitted: Candidates, pair: tuple[str, str], target: tuple[float, float], distance: float
) -> float | None:
    """Return the largest size of the fewest further rungs that make the gap large enough, as the laws have it."""
    runs = [_runs_of(fitted, name) for name in pair]
    laws = [fitted.draws[name].law_15[0] for name in pair]
    noise = [
        next(n.variance for f, n in zip(fitted.fits, fitted.noises, strict=True) if name in f.runs.names)
        for name in pair
    ]
    today = sum(_variance(law, n, d, target, v) for law, (n, d), v in zip(laws, runs, noise, strict=True))
    for extra in range(1, _MOST_RUNGS + 1):
        longer = [_add_rungs(n, d, extra) for n, d in runs]
        if max(n.max() for n, _ in longer) >= target[0]:
            return None
        then = sum(_variance(law, n, d, target, v) for law, (n, d), v in zip(laws, longer, noise, strict=True))
        if distance * np.sqrt(today / then) >= _NEEDED:
            return float(max(n.max() for n, _ in longer))
    return None


def _runs_of(fitted: Candidates, name: str) -> tuple[Floats, Floats]:
    runs: Runs = next(fit.runs for fit in fitted.fits if name in fit.runs.names)
    mine = runs.candidate_P == runs.names.index(name)
    return runs.params_P[mine], runs.tokens_P[mine]


def _add_rungs(params_P: Floats, tokens_P: Floats, extra: int) -> tuple[Floats, Floats]:
    """Add rungs above the largest, as far apart as the two largest are, with its runs at as many tokens a parameter."""
    sizes = np.unique(params_P)
    step = sizes[-1] / sizes[-2] if len(sizes) > 1 else 2.0
    top = params_P == sizes[-1]
    scales = [step**rung for rung in range(1, extra + 1)]
    return (
        np.concatenate([params_P, *(params_P[top] * scale for scale in scales)]),
        np.concatenate([tokens_P, *(tokens_P[top] * scale for scale in scales)]),
    )


def _variance(law_5: Floats, params_P: Floats, tokens_P: Floats, target: tuple[float, float], noise: float) -> float:
    """Return the variance of a forecast's logarithm by Fisher's information of runs at these sizes and tokens."""
    jacobian = _jacobian(law_5, params_P, tokens_P)
    at_target = _jacobian(law_5, np.array([target[0]]), np.array([target[1]]))[0]
    information = jacobian.T @ jacobian / max(noise, 1e-20) + np.diag(_PRIOR**-2.0)
    return float(at_target @ np.linalg.solve(information, at_target))


def _jacobian(law_5: Floats, params_P: Floats, tokens_P: Floats) -> Floats:
    E, A, a, B, b = law_5
    by_size, by_tokens = A * params_P**-a, B * tokens_P**-b
    columns = [E + 0 * by_size, by_size, by_tokens, -a * by_size * np.log(params_P), -b * by_tokens * np.log(tokens_P)]
    return np.stack(columns, 1) / (E + by_size + by_tokens)[:, None]
