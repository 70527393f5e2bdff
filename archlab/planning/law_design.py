"""The law E + A/N^a + B/D^b in the unknowns that are fitted, and where its losses were measured.

Shapes: S samples, P points, G candidates that share exponents, V = 2 + 3 G unknowns: the logarithms of a, b, and of
each candidate's E and its two terms at the middle of the points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Published exponents lie between 0.05 and 0.8; below the lowest a power cannot be distinguished from a logarithm.
EXPONENTS = (0.03, 1.5)
SMALLEST_TERM = 1e-7  # of the loss: a term that the data do not show ends here, since its logarithm is fitted


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
