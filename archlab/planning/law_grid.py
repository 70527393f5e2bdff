"""Where fits of a law start: every sample projected at the nodes of a grid of exponents.

For fixed exponents (a, b) the law E + A/N^a + B/D^b is linear in its other numbers, which a projection gives without a
search: variable projection, [Czech et al. 2026](https://arxiv.org/abs/2603.22339).

Shapes as in `law_design`, with K nodes, C columns, and M pairs of a node and a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from archlab.planning.law_design import EXPONENTS, SMALLEST_TERM, Design, Floats, Ints


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
    """Project samples, of a size about 1, at the nodes of a grid with the given number of points in each direction."""
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
        # Relative errors are those of log L as long as they are small; smaller differences are left to the refinement.
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
        found = np.full((len(node_M), 3), SMALLEST_TERM)
        chosen_M = self.subset_KS[node_M, sample_M]
        for index, (subset, solution) in enumerate(zip(self.subsets, self.solutions, strict=True)):
            here = np.flatnonzero(chosen_M == index)
            found[here[:, None], subset] = solution[node_M[here], :, sample_M[here]]
        return np.maximum(found, SMALLEST_TERM)


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
