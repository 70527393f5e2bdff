"""Scaling laws L(N, D) = E + A/N^a + B/D^b and their fit to the losses of candidates.

[Hoffmann et al. 2022](https://arxiv.org/abs/2203.15556)'s law, fitted by variable projection with many starts, the
Huber loss of log L, and a scale of that loss taken from the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from archlab.planning.law_design import EXPONENTS, Design, Floats, Ints, evaluate
from archlab.planning.law_grid import grid_search
from archlab.planning.law_solver import refine
from archlab.planning.losses import LossPoint

_HUBER = 2.0  # standard deviations, beyond which a run counts as an outlier: 99 % efficient on Gaussian noise
_HUBER_SCALE = 0.9205  # the mean of min(z^2, 4) of a standard normal z
_NODES, _PARTS = 30, 5  # of the grid in each direction: neighbors differ by a seventh, 25 parts have a start each
_CONVERGED = 1e-5  # of the objective: the gain of a further step


@dataclass(frozen=True)
class Law:
    """L(N, D) = E + A/N^a + B/D^b, in the unit of the losses that it was fitted to."""

    E: float
    A: float
    a: float
    B: float
    b: float

    def __call__(self, params: float, tokens: float) -> float:
        """Return the loss of a model of `params` parameters without embeddings, trained on `tokens` tokens."""
        return float(self.E + self.A * params**-self.a + self.B * tokens**-self.b)


@dataclass(frozen=True)
class Runs:
    """The points of candidates as arrays; `candidate_P` counts in `names`."""

    names: tuple[str, ...]
    candidate_P: Ints
    params_P: Floats
    tokens_P: Floats
    loss_P: Floats
    seeds: tuple[str, ...]

    @classmethod
    def of(cls, points: Sequence[LossPoint], names: Sequence[str]) -> Runs:
        """Return the points of the candidates with these names, in the order of names, sizes, tokens and seeds."""
        index = {name: position for position, name in enumerate(names)}
        mine = [p for p in points if p.candidate in index]
        # In one order, so that rows of a file may be shuffled and the figures stay the same to the bit.
        mine.sort(key=lambda p: (index[p.candidate], p.params, p.tokens, p.seed))
        return cls(
            tuple(names),
            np.array([index[p.candidate] for p in mine]),
            np.array([p.params for p in mine], dtype=float),
            np.array([p.tokens for p in mine], dtype=float),
            np.array([p.loss for p in mine], dtype=float),
            tuple(p.seed for p in mine),
        )

    @property
    def cell_P(self) -> Ints:
        """The number of each point's cell: the runs of one candidate that differ in their seeds alone."""
        keys = np.stack([self.candidate_P, self.params_P, self.tokens_P], 1)
        return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


@dataclass(frozen=True)
class Noise:
    """The noise of log L: its variance, of how many degrees of freedom, and that of a single run."""

    variance: float
    freedom: int
    run_variance: float


@dataclass(frozen=True)
class LawFit:
    """Candidates with common exponents, fitted: unknowns [1, V] of the solver, centered by `middle` and `unit`."""

    runs: Runs
    terms: tuple[bool, bool]
    theta_1V: Floats
    weight_P: Floats
    middle: tuple[float, float]
    unit: float
    squares: tuple[float, float]
    freedoms: tuple[int, int]
    converged: bool
    agreeing: int

    @property
    def objective(self) -> float:
        """The weighted sum of squares of log L."""
        return sum(self.squares)

    def laws(self, theta_SV: Floats) -> Floats:
        """Return E, A, a, B, b of each sample and candidate, [S, G, 5], in the units of the points."""
        a, b = np.exp(theta_SV[:, 0, None]), np.exp(theta_SV[:, 1, None])
        E, A, B = np.moveaxis(np.exp(theta_SV[:, 2:]).reshape(len(theta_SV), -1, 3) * self.unit, 2, 0)
        A = A * np.exp(a * self.middle[0]) * self.terms[0]
        B = B * np.exp(b * self.middle[1]) * self.terms[1]
        return np.stack([E, A, a + 0 * E, B, b + 0 * E], 2)

    def cells(self) -> tuple[Design, Floats]:
        """Return the design of the cells, weighted by their runs, and the fitted log L of each, [C]."""
        cell_P = self.runs.cell_P
        first_C = np.unique(cell_P, return_index=True)[1]
        design = _design(self.runs, self.middle, self.terms)
        weight_C = np.sqrt(np.bincount(cell_P, self.weight_P))
        candidate_C = design.candidate_P[first_C]
        cells = Design(design.x_P[first_C], design.z_P[first_C], candidate_C, weight_C, self.terms)
        return cells, np.log(sum(evaluate(self.theta_1V, cells.x_P, cells.z_P, candidate_C)))[0]


def _design(runs: Runs, middle: tuple[float, float], terms: tuple[bool, bool]) -> Design:
    x_P, z_P = np.log(runs.params_P) - middle[0], np.log(runs.tokens_P) - middle[1]
    return Design(x_P, z_P, runs.candidate_P, np.ones(len(x_P)), terms)


def fit_law(runs: Runs, terms: tuple[bool, bool]) -> LawFit:
    """Fit the law with these terms, of N and of D, to candidates that share its exponents."""
    middle = (float(np.log(runs.params_P).mean()), float(np.log(runs.tokens_P).mean()))
    unit = float(np.exp(np.log(runs.loss_P).mean()))
    design, log_loss_1P = _design(runs, middle, terms), np.log(runs.loss_P / unit)[None]
    starts = _starts(design, np.exp(log_loss_1P))
    freedom = max(1, len(runs.loss_P) - design.num_free)
    delta = np.inf
    for _ in range(4):  # the scale of the noise and its outliers converge together
        found = refine(design, np.repeat(log_loss_1P, len(starts), 0), starts, delta=delta, iterations=30)
        starts = found.theta_SV[np.argsort(found.objective_S, kind="stable")][:6]
        delta = _HUBER * _scale(_residuals(design, log_loss_1P, starts[:1]), freedom, delta)
    found = refine(design, np.repeat(log_loss_1P, len(starts), 0), starts, delta=delta, iterations=400)
    best = int(found.objective_S.argmin())
    lowest = found.objective_S[best]
    theta = found.theta_SV[best : best + 1]
    residual_P = _residuals(design, log_loss_1P, theta)
    weight_P = np.minimum(1, delta / np.maximum(np.abs(residual_P), 1e-300))
    return LawFit(
        runs,
        terms,
        theta,
        weight_P,
        middle,
        unit,
        *_sums_of_squares(runs.cell_P, residual_P, weight_P, design.num_free),
        converged=bool(found.slope_S[best] < _CONVERGED or lowest < 1e-20),
        agreeing=int((found.objective_S <= lowest * (1 + 1e-4) + 1e-20).sum()),
    )


def _starts(design: Design, loss_1P: Floats) -> Floats:
    """Return the best node of each part of the grid."""
    grid = grid_search(design, loss_1P, _NODES)
    low, high = np.log(EXPONENTS)
    part_K2 = np.minimum(_PARTS - 1, _PARTS * (np.log(grid.exponents_K2) - low) // (high - low)).astype(int)
    best: dict[tuple[int, ...], int] = {}
    for node in np.argsort(grid.error_KS[:, 0], kind="stable"):
        best.setdefault(tuple(map(int, part_K2[node])), int(node))
    nodes = np.array(list(best.values()))
    return grid.at(nodes, np.zeros_like(nodes))


def _residuals(design: Design, log_loss_1P: Floats, theta_1V: Floats) -> Floats:
    return (log_loss_1P - np.log(sum(evaluate(theta_1V, design.x_P, design.z_P, design.candidate_P))))[0]


def _scale(residual_P: Floats, freedom: int, delta: float) -> float:
    """Return the standard deviation of the noise, which outliers do not raise."""
    size = np.abs(residual_P)
    if not np.isfinite(delta):
        return max(1e-13, 1.4826 * float(np.median(size)) * np.sqrt(len(size) / freedom))
    return max(1e-13, float(np.sqrt((np.minimum(size, delta) ** 2).sum() / freedom / _HUBER_SCALE)))


def _sums_of_squares(
    cell_P: Ints, residual_P: Floats, weight_P: Floats, num_free: int
) -> tuple[tuple[float, float], tuple[int, int]]:
    """Return the sums of squares of cells about the law and of runs about their cells, and their degrees of freedom."""
    runs_C = np.bincount(cell_P, weight_P)
    mean_C = np.bincount(cell_P, weight_P * residual_P) / runs_C
    squares = float((runs_C * mean_C**2).sum()), float(((weight_P * (residual_P - mean_C[cell_P])) ** 2).sum())
    robust = 1 / _HUBER_SCALE if (weight_P < 1).any() else 1.0
    freedoms = max(0, len(runs_C) - num_free), len(cell_P) - len(runs_C)
    return (squares[0] * robust, squares[1] * robust), freedoms
