from __future__ import annotations

import math
from typing import Annotated, TypeAlias

import torch
from torch import Tensor, nn

from archlab import Count, Fraction, Param, Range, TensorPlan, choice, register
from archlab.components.ema._diagonal import DiagonalStates
from archlab.ops.diagonal_scan import Decay
from archlab.ops.dtypes import at_least_float32

Radius: TypeAlias = Annotated[float, Range(low=0, above=True, high=1)]
Phase: TypeAlias = Annotated[float, Range(low=0, above=True, high=2 * math.pi)]
# Of |λ|² at initialization: both logarithms of a parameter are finite in float32.
SMALLEST, LARGEST = 1e-12, 1 - 1e-6


@register(
    "ema",
    "lru",
    search={"num_dims": choice(4, 8, 16, 32), "r_min": choice(0.0, 0.5, 0.9), "max_phase": choice(0.314, 3.14, 6.28)},
    params={"*": Param("vector", tensor="column")},
    tensor=TensorPlan(),
    carry="associative",
)
class LinearRecurrentUnit(DiagonalStates):
    """The Linear Recurrent Unit, h_t = λ h_{t-1} + γ x_t with λ = exp(-exp(ν) + i exp(θ)) (arXiv:2303.06349).

    x: [B, T, D] -> [B, T, D], Re(c h_t) summed over states, plus skip x_t.
    State: h [B, D, N, 2], real and imaginary, divided by γ.
    At first λ is uniform in the area of a ring (section 3.2.2), and γ = sqrt(1 - |λ|²) (section 3.4).
    Raises ValueError where r_min is above r_max.
    Deviations: each channel has states of its own, as in S4D, and the matrix B, which a factor of c replaces, is 1;
    channels are mixed by the layer around it.

    Args:
        num_dims: Number N of complex states per channel.
        r_min: Inner radius of the ring.
        r_max: Outer radius of the ring.
        max_phase: Largest angle of λ at initialization, in radians.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_dims: Count = 16,
        r_min: Fraction = 0.0,
        r_max: Radius = 1.0,
        max_phase: Phase = 6.28,
    ) -> None:
        super().__init__()
        if r_min > r_max:
            raise ValueError(f"r_min {r_min} is above r_max {r_max}")
        self.r_min, self.r_max, self.max_phase = r_min, r_max, max_phase
        self.nu_log = nn.Parameter(torch.empty(dim, num_dims))
        self.theta_log = nn.Parameter(torch.empty(dim, num_dims))
        self.gamma_log = nn.Parameter(torch.empty(dim, num_dims))
        self.read = nn.Parameter(torch.empty(dim, num_dims, 2))
        self.skip = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw λ in the ring, evenly over its area, c and the skip; set γ so that white noise has states of size 1."""
        area = nn.init.uniform_(self.nu_log, self.r_min**2, self.r_max**2).clamp_(SMALLEST, LARGEST)
        self.gamma_log.copy_(torch.log1p(-area) / 2)
        area.log_().mul_(-0.5).log_()
        nn.init.uniform_(self.theta_log, 0.0, self.max_phase).clamp_(min=SMALLEST).log_()
        nn.init.normal_(self.read, std=self.read.shape[1] ** -0.5)
        nn.init.normal_(self.skip)

    def _coefficients(self) -> tuple[Decay, Tensor]:
        """Return the decay λ and the output's weight γ c."""
        rate, angle = (torch.exp(at_least_float32(part)) for part in (self.nu_log, self.theta_log))
        gamma_DN1 = torch.exp(at_least_float32(self.gamma_log))[..., None]
        return Decay(-rate, angle), gamma_DN1 * at_least_float32(self.read)
