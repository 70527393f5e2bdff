"""Forecasts of candidates' losses with intervals, by a bootstrap over cells and seeds.

Each sample adds noise to the fitted loss of every cell (a size and token count) and fits the law again, so that the
uncertainty of the exponents is in the interval. The noise is estimated from the runs: of seeds about their cell's mean,
and of cells about the law. Its variance is drawn too, from what so few runs leave open of it, which widens the
intervals as Student's t does. Runs of several candidates with the same rung and seed share as much noise as their
residuals do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archlab.planning.law_design import Floats, Ints, evaluate
from archlab.planning.law_form import Form, losses
from archlab.planning.law_grid import grid_search
from archlab.planning.law_solver import refine
from archlab.planning.scaling_law import LawFit, Noise

SAMPLES = 1000
_LARGEST_NOISE = 2.0  # of log L: with one degree of freedom, the variance drawn has no bound
_NODES, _REFINEMENTS = 12, 16  # of the grid in each direction, and the steps from its best


@dataclass(frozen=True)
class Draws:
    """One candidate's laws: the fitted one [1, 5] and those of the bootstrap [S, 5], and noise of a single run [S]."""

    law_15: Floats
    laws_S5: Floats
    run_noise_S: Floats

    def forecast(self, params: float, tokens: float) -> float:
        """Return the loss that the fitted law gives."""
        return float(losses(self.law_15, params, tokens)[0])

    def sample(self, params: float, tokens: float) -> Floats:
        """Return the loss that each law of the bootstrap gives, [S]."""
        return losses(self.laws_S5, params, tokens)


def interval(values_S: Floats, point: float) -> tuple[float, float]:
    """Return the 90 % interval of samples, which holds the point."""
    low, high = np.quantile(values_S, (0.05, 0.95))
    return min(float(low), point), max(float(high), point)


def bootstrap(
    fits: Sequence[LawFit], forms: Sequence[Form], noises: Sequence[Noise], seed: int, samples: int = SAMPLES
) -> dict[str, Draws]:
    """Return the laws of every candidate, sampled together."""
    rng = np.random.default_rng(seed)
    normal = _paired_normals(fits, rng, samples)
    draws: dict[str, Draws] = {}
    scales: dict[int, Floats] = {}  # drawn once for all: noise that candidates share must cancel between them
    for fit, form, noise, z_SP in zip(fits, forms, noises, normal, strict=True):
        if noise.freedom not in scales:
            scales[noise.freedom] = np.sqrt(noise.freedom / rng.chisquare(noise.freedom, samples))
        laws_SG5 = fit.laws(_refit(fit, np.sqrt(noise.variance) * scales[noise.freedom], z_SP))
        run_noise_S = np.sqrt(noise.run_variance) * scales[noise.freedom] * rng.standard_normal(samples)
        for position, name in enumerate(fit.runs.names):
            point = fit.laws(fit.theta_1V)[:, position]
            laws_S5 = form.split(laws_SG5[:, position], rng)
            draws[name] = Draws(form.split(point), laws_S5, run_noise_S)
    return draws


def _refit(fit: LawFit, scale_S: Floats, z_SP: Floats) -> Floats:
    """Return the unknowns of laws fitted to the fitted losses plus noise."""
    design, fitted_C = fit.cells()
    cell_P = fit.runs.cell_P
    mean_PC = np.zeros((len(cell_P), len(fitted_C)))
    mean_PC[np.arange(len(cell_P)), cell_P] = fit.weight_P / design.weight_P[cell_P] ** 2
    noise_SC = (scale_S[:, None] * (z_SP @ mean_PC)).clip(-_LARGEST_NOISE, _LARGEST_NOISE)
    log_loss_SC = fitted_C + noise_SC
    start_SV = grid_search(design, np.exp(log_loss_SC), _NODES).best()
    return refine(design, log_loss_SC, start_SV, delta=np.inf, iterations=_REFINEMENTS).theta_SV


def _paired_normals(fits: Sequence[LawFit], rng: np.random.Generator, samples: int) -> list[Floats]:
    """Return standard normal noise of the runs of each fit, [S, P], correlated between candidates as residuals are."""
    keys = [_keys(fit) for fit in fits]
    shared = np.sqrt(_correlation(fits, keys))
    common = {key: rng.standard_normal(samples) for key in dict.fromkeys(key for mine in keys for key in mine)}
    return [
        shared * np.stack([common[key] for key in mine], 1)
        + np.sqrt(1 - shared**2) * rng.standard_normal((samples, len(mine)))
        for mine in keys
    ]


def _keys(fit: LawFit) -> list[tuple[int, int, str]]:
    """Return for each run the rank of its size, the rank of its tokens at that size, and its seed."""
    runs, ranks = fit.runs, np.zeros((len(fit.runs.seeds), 2), dtype=int)
    for candidate in range(len(runs.names)):
        mine = runs.candidate_P == candidate
        ranks[mine, 0] = _rank(runs.params_P[mine])
        for size in range(ranks[mine, 0].max() + 1):
            here = mine & (ranks[:, 0] == size)
            ranks[here, 1] = _rank(runs.tokens_P[here])
    return [(int(n), int(d), seed) for (n, d), seed in zip(ranks, runs.seeds, strict=True)]


def _rank(values: Floats) -> Ints:
    return np.unique(values, return_inverse=True)[1].reshape(-1)


def _correlation(fits: Sequence[LawFit], keys: Sequence[list[tuple[int, int, str]]]) -> float:
    """Return the correlation of residuals between candidates at the same rung and seed; 0 where chance would do."""
    by_key: dict[tuple[int, int, str], list[float]] = {}
    for fit, mine in zip(fits, keys, strict=True):
        for key, residual in zip(mine, _standard_residuals(fit), strict=True):
            by_key.setdefault(key, []).append(float(residual))
    groups = [np.array(values) for values in by_key.values() if len(values) > 1]
    pairs = sum(len(values) * (len(values) - 1) / 2 for values in groups)
    if not pairs:
        return 0.0
    correlation = sum((values.sum() ** 2 - (values**2).sum()) / 2 for values in groups) / pairs
    return float(np.clip(correlation, 0, 0.99)) if correlation > 2 / np.sqrt(pairs) else 0.0


def _standard_residuals(fit: LawFit) -> Floats:
    x_P, z_P = np.log(fit.runs.params_P) - fit.middle[0], np.log(fit.runs.tokens_P) - fit.middle[1]
    fitted = np.log(sum(evaluate(fit.theta_1V, x_P, z_P, fit.runs.candidate_P)))[0]
    residual = np.log(fit.runs.loss_P / fit.unit) - fitted
    size = np.sqrt((fit.weight_P * residual**2).mean())
    # The residual of an exact law is rounding, and rounding of neighbors is alike.
    return residual / size if size > 1e-9 else np.zeros_like(residual)
