from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from archlab import Count, Param, Positive, TensorPlan, choice, register
from archlab.components._dt import check_dt_range
from archlab.components.ema._diagonal import DiagonalStates, legendre_frequencies, zero_order_hold
from archlab.ops.diagonal_scan import Decay, complex_mul
from archlab.ops.dtypes import at_least_float32

Spectrum: TypeAlias = Literal["linear", "inverse", "legendre"]


@register(
    "ema",
    "s4d",
    search={"num_dims": choice(4, 8, 16, 32), "spectrum": choice("linear", "inverse", "legendre")},
    params={"*": Param("vector", tensor="column")},
    tensor=TensorPlan(),
    carry="associative",
)
class DiagonalStateSpace(DiagonalStates):
    """Diagonal state space model with zero-order hold, S4D (arXiv:2206.11893).

    x: [B, T, D] -> [B, T, D].  State: h [B, D, num_dims, 2], real and imaginary; each stands for itself and its
    conjugate, so that the paper's N is 2 num_dims.  The real part of A is initially -1/2, and dt is log-uniform.
    Raises ValueError where dt_min is above dt_max.

    Args:
        num_dims: Number of complex states per channel, half of the paper's N.
        dt_min: Smallest time step dt at initialization.
        dt_max: Largest time step dt at initialization.
        spectrum: Initial imaginary part of A: `linear` as in S4D-Lin, `inverse` as in S4D-Inv, `legendre` as in
            S4D-LegS, the eigenvalues of HiPPO's matrix.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_dims: Count = 16,
        dt_min: Positive = 1e-3,
        dt_max: Positive = 0.1,
        spectrum: Spectrum = "linear",
    ) -> None:
        super().__init__()
        check_dt_range(dt_min, dt_max)
        self.dt_min, self.dt_max, self.spectrum = dt_min, dt_max, spectrum
        self.log_step = nn.Parameter(torch.empty(dim))
        self.log_rate = nn.Parameter(torch.empty(dim, num_dims))
        self.frequency = nn.Parameter(torch.empty(dim, num_dims))
        self.read = nn.Parameter(torch.empty(dim, num_dims, 2))
        self.skip = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set A, and draw dt and C."""
        frequency = torch.from_numpy(_frequencies(self.frequency.shape[1], self.spectrum)).to(self.frequency)
        nn.init.uniform_(self.log_step, math.log(self.dt_min), math.log(self.dt_max))
        nn.init.constant_(self.log_rate, math.log(0.5))
        nn.init.normal_(self.read, std=0.5**0.5)
        nn.init.ones_(self.skip)
        with torch.no_grad():
            self.frequency.copy_(frequency.expand_as(self.frequency))

    def _coefficients(self) -> tuple[Decay, Tensor]:
        """Return the decay exp(dt A) and the output's weight 2 C (exp(dt A) - 1) / A, B being 1.

        The factor 2 adds the conjugate state.
        """
        decay, held_DN2 = zero_order_hold(self.log_step[:, None], self.log_rate, self.frequency)
        return decay, 2 * complex_mul(at_least_float32(self.read), held_DN2)


def _frequencies(num_dims: int, spectrum: Spectrum) -> np.ndarray:
    """Return the imaginary parts of A, sections 4.1 to 4.3 of the paper."""
    N, n = 2 * num_dims, np.arange(num_dims)
    if spectrum == "linear":
        return np.pi * n
    if spectrum == "inverse":
        return N / np.pi * (N / (2 * n + 1) - 1)
    return legendre_frequencies(num_dims)
