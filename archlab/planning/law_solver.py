"""Sums of power laws fitted to many samples at once: variable projection on a grid of exponents, then a refinement.

For fixed exponents (a, b) the law E + A/N^a + B/D^b is linear in its other numbers, which a projection gives without a
search ([Czech et al. 2026](https://arxiv.org/abs/2603.22339)): a grid of two dimensions holds all starts, and its best
ones are refined in all numbers at once, on the residuals of log L.

Shapes: S samples, P points, G candidates that share exponents, K nodes of the grid, V = 2 + 3 G unknowns: the
logarithms of a, b, and of each candidate's E and its two terms at the middle of the points.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Published exponents lie between 0.05 and 0.8; below the lowest a power cannot be told from a logarithm.
EXPONENTS = (0.03, 1.5)
_SMALLEST_TERM = 1e-7  # of the loss: a term that the data do not show ends here, since its logarithm is what is fitted
_LEFT = 1e-9  # of the objective: what a step may still gain where a refinement ends
_ROUNDING = 1e-21  # of the objective, which is 0 where losses have no noise


@dataclass(frozen=True)
class Design:
    """Where losses were measured: log N and log D less `middle`, whose each point is, its weight, and the terms."""

    x_P: Floats
    z_P: Floats
    candidate_P: Ints
    weight_P: Floats
    terms: tuple[bool, bool] = (True, True)

    @property
    def num_candidates(self) -> int:
        """How many candidates share the exponents."""
        return int(self.candidate_P.max()) + 1

    @property
    def num_free(self) -> int:
        """How many numbers the law has: exponents, and for each candidate E and its terms."""
        return sum(self.terms) + self.num_candidates * (1 + sum(self.terms))

    @property
    def free_V(self) -> npt.NDArray[np.bool_]:
        """Which unknowns are fitted."""
        return np.array([*self.terms, *((True, *self.terms) * self.num_candidates)])


def evaluate(theta_SV: Floats, x_P: Floats, z_P: Floats, candidate_P: Ints) -> tuple[Floats, Floats, Floats]:
    """Return the constant, the term of N and the term of D of each sample at each point, [S, P] each."""
    a, b = np.exp(theta_SV[:, 0, None]), np.exp(theta_SV[:, 1, None])
    c_SGP = np.exp(theta_SV[:, 2:]).reshape(len(theta_SV), -1, 3)[:, candidate_P]
    return c_SGP[..., 0], c_SGP[..., 1] * np.exp(-a * x_P), c_SGP[..., 2] * np.exp(-b * z_P)


@dataclass(frozen=True)
class Grid:
    """Every sample projected at every node of a grid of exponents: squared errors [K, S], summed over candidates."""

    error_KS: Floats
    exponents_K2: Floats
    coefficients_G: tuple[Projections, ...]

    def at(self, node_M: Ints, sample_M: Ints) -> Floats:
        """Return the unknowns of samples at nodes, [M, V]."""
        linear = [one.coefficients(node_M, sample_M) for one in self.coefficients_G]
        return np.log(np.concatenate([self.exponents_K2[node_M], *linear], 1))

    def best(self) -> Floats:
        """Return the unknowns of each sample at its best node, [S, V]."""
        return self.at(self.error_KS.argmin(0), np.arange(self.error_KS.shape[1]))


def grid_search(design: Design, loss_SP: Floats, nodes: int) -> Grid:
    """Project samples, of a size about 1, at the nodes of a grid with so many in each direction."""
    axes = np.geomspace(*EXPONENTS, nodes)
    a_K, b_K = (axis.ravel() for axis in np.meshgrid(*(axes if on else axes[:1] for on in design.terms), indexing="ij"))
    projections = []
    for candidate in range(design.num_candidates):
        mine = design.candidate_P == candidate
        columns = [np.ones((len(a_K), int(mine.sum())))]
        columns += [np.exp(-a_K[:, None] * design.x_P[mine])] if design.terms[0] else []
        columns += [np.exp(-b_K[:, None] * design.z_P[mine])] if design.terms[1] else []
        places = [0, *(1 + place for place, on in enumerate(design.terms) if on)]
        projections.append(Projections.of(np.stack(columns, 2), places, loss_SP[:, mine], design.weight_P[mine]))
    error_KS = sum((one.error_KS for one in projections), np.zeros((len(a_K), len(loss_SP))))
    return Grid(error_KS, np.stack([a_K, b_K], 1), tuple(projections))


@dataclass(frozen=True)
class Projections:
    """Least squares with coefficients from 0 on, by trying each subset of the columns: there are seven at most."""

    error_KS: Floats
    subset_KS: Ints
    subsets: tuple[list[int], ...]
    solutions: tuple[Floats, ...]  # [K, C, S] of each subset

    @classmethod
    def of(cls, columns_KPC: Floats, places: list[int], loss_SP: Floats, weight_P: Floats) -> Projections:
        """Fit samples with the columns, which stand at these places among E and the two terms."""
        # Relative errors are those of log L as long as they are small; what is small beside them, the refinement gives.
        scale_P = weight_P / np.exp(np.log(loss_SP).mean(0))
        y_PS = (loss_SP * scale_P).T
        error = np.full((len(columns_KPC), len(loss_SP)), np.inf)
        chosen = np.zeros(error.shape, dtype=np.int64)
        subsets: list[list[int]] = []
        solutions: list[Floats] = []
        for subset in _subsets(columns_KPC.shape[2]):
            Q, R = np.linalg.qr(columns_KPC[:, :, subset] * scale_P[:, None])
            projected_KCS = Q.transpose(0, 2, 1) @ y_PS
            solutions.append(_solve_triangular(R, projected_KCS))
            left = (y_PS**2).sum(0) - np.einsum("kcs,kcs->ks", projected_KCS, projected_KCS)
            better = (solutions[-1] > 0).all(1) & (left < error)
            error, chosen = np.where(better, left, error), np.where(better, len(subsets), chosen)
            subsets.append([places[column] for column in subset])
        return cls(error, chosen, tuple(subsets), tuple(solutions))

    def coefficients(self, node_M: Ints, sample_M: Ints) -> Floats:
        """Return E and the two terms of samples at nodes, [M, 3], each at least the smallest term."""
        found = np.full((len(node_M), 3), _SMALLEST_TERM)
        chosen_M = self.subset_KS[node_M, sample_M]
        for index, (subset, solution) in enumerate(zip(self.subsets, self.solutions, strict=True)):
            here = np.flatnonzero(chosen_M == index)
            found[here[:, None], subset] = solution[node_M[here], :, sample_M[here]]
        return np.maximum(found, _SMALLEST_TERM)


def _subsets(count: int) -> list[list[int]]:
    return [list(one) for size in range(1, count + 1) for one in combinations(range(count), size)]


def _solve_triangular(R_KCC: Floats, y_KCS: Floats) -> Floats:
    # By hand: numpy has no triangular solver, and its general one refuses columns that are the same.
    x = np.zeros_like(y_KCS)
    for row in reversed(range(R_KCC.shape[1])):
        rest = y_KCS[:, row] - np.einsum("kc,kcs->ks", R_KCC[:, row, row + 1 :], x[:, row + 1 :])
        pivot = R_KCC[:, row, row, None]
        x[:, row] = rest / np.where(np.abs(pivot) < 1e-13, np.inf, pivot)
    return x


@dataclass(frozen=True)
class Minimum:
    """Refined samples: unknowns [S, V], loss functions [S], and how far each is from a stationary point [S]."""

    theta_SV: Floats
    objective_S: Floats
    slope_S: Floats


def refine(design: Design, log_loss_SP: Floats, theta_SV: Floats, *, delta: float, iterations: int) -> Minimum:
    """Minimize the sum of Huber losses of log L by the method of Levenberg and Marquardt, all samples at once.

    `delta` is where the loss turns from squared to absolute; infinity is least squares. It is summed and not averaged:
    an average is so small that a tolerance ends the fit early, which is what went wrong in the Chinchilla paper's
    ([Besiroglu et al. 2024](https://arxiv.org/abs/2404.10102)).
    """
    theta, damping = theta_SV.copy(), np.full(len(theta_SV), 1e-3)
    objective, gradient, hessian = _expand(design, log_loss_SP, theta, delta)
    for _ in range(iterations):
        step = _step(hessian, gradient, damping)
        if ((step * gradient).sum(1) <= _LEFT * (objective + _ROUNDING)).all():
            break
        proposal = _bounded(theta + step)
        new = _expand(design, log_loss_SP, proposal, delta)
        better = new[0] <= objective
        theta = np.where(better[:, None], proposal, theta)
        gradient = np.where(better[:, None], new[1], gradient)
        hessian = np.where(better[:, None, None], new[2], hessian)
        objective = np.where(better, new[0], objective)
        damping = np.where(better, damping / 6, damping * 4).clip(1e-13, 1e8)
    # What an undamped step would still gain, beside what is left: scale-free, and 0 where a bound holds the step.
    undamped = _bounded(theta + _step(hessian, gradient, np.full(len(theta), 1e-10))) - theta
    gain = np.abs((undamped * gradient).sum(1))
    return Minimum(theta, objective, gain / (objective + _ROUNDING))


def _expand(design: Design, log_loss_SP: Floats, theta_SV: Floats, delta: float) -> tuple[Floats, Floats, Floats]:
    """Return objective [S], descent direction [S, V] and Gauss-Newton matrix [S, V, V]."""
    E, A, B = evaluate(theta_SV, design.x_P, design.z_P, design.candidate_P)
    law = E + A + B
    residual = log_loss_SP - np.log(law)
    size = np.abs(residual)
    near = np.minimum(size, delta)
    objective = (design.weight_P**2 * near * (size - near / 2)).sum(1)
    robust = near / np.maximum(size, 1e-300)
    jacobian = np.zeros((*law.shape, theta_SV.shape[1]))
    jacobian[..., 0] = -A * design.x_P * np.exp(theta_SV[:, 0, None]) / law
    jacobian[..., 1] = -B * design.z_P * np.exp(theta_SV[:, 1, None]) / law
    points = np.arange(law.shape[1])
    for offset, term in enumerate((E, A, B)):
        jacobian[:, points, 2 + 3 * design.candidate_P + offset] = term / law
    jacobian *= design.free_V
    weighted = jacobian * (design.weight_P**2 * robust)[..., None]
    return objective, np.einsum("spv,sp->sv", weighted, residual), weighted.transpose(0, 2, 1) @ jacobian


def _step(hessian_SVV: Floats, gradient_SV: Floats, damping_S: Floats) -> Floats:
    diagonal = np.einsum("svv->sv", hessian_SVV)
    added = damping_S[:, None] * diagonal + 1e-15 * diagonal.max(1, keepdims=True) + 1e-300
    damped = hessian_SVV + np.eye(hessian_SVV.shape[1]) * added[..., None]
    return np.linalg.solve(damped, gradient_SV[..., None])[..., 0].clip(-1, 1)


def _bounded(theta_SV: Floats) -> Floats:
    low, high = np.log(EXPONENTS)
    return np.concatenate([theta_SV[:, :2].clip(low, high), theta_SV[:, 2:].clip(np.log(_SMALLEST_TERM), None)], 1)
