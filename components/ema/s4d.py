from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from archlab.components._numerics import at_least_float32
from archlab.domains import Count, Positive, choice
from archlab.registry import register
from archlab.state import Recurrent, State

from ._scan import Decay, product, scan


@register("ema", "s4d", search={"num_dims": choice(4, 8, 16, 32)})
class DiagonalStateSpace(Recurrent):
    """Diagonal state space with zero-order hold, S4D-Lin (arXiv:2206.11893).

    x: [B, T, D] -> [B, T, D].  State: h [B, D, N, 2], real and imaginary; each stands for itself and its
    conjugate. Step sizes begin spread evenly in the logarithm between `min_step` and `max_step`.
    """

    def __init__(self, dim: int, *, num_dims: Count = 16, min_step: Positive = 1e-3, max_step: Positive = 0.1) -> None:
        super().__init__()
        if min_step > max_step:
            raise ValueError(f"min_step {min_step} is above max_step {max_step}")
        self.min_step, self.max_step = min_step, max_step
        self.log_step = nn.Parameter(torch.empty(dim))
        self.log_rate = nn.Parameter(torch.empty(dim, num_dims))
        self.frequency = nn.Parameter(torch.empty(dim, num_dims))
        self.read = nn.Parameter(torch.empty(dim, num_dims, 2))
        self.skip = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set A_n = -1/2 + i pi n, and draw steps, outputs and skips."""
        order = torch.arange(self.frequency.shape[1], device=self.frequency.device, dtype=self.frequency.dtype)
        nn.init.uniform_(self.log_step, math.log(self.min_step), math.log(self.max_step))
        nn.init.constant_(self.log_rate, math.log(0.5))
        nn.init.normal_(self.read, std=0.5**0.5)
        nn.init.ones_(self.skip)
        with torch.no_grad():
            self.frequency.copy_((math.pi * order).expand_as(self.frequency))

    def init_state(self, batch_size: int) -> State:
        """Return h = 0."""
        return {"h": at_least_float32(self.read).new_zeros(batch_size, *self.read.shape)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Filter every channel by its own state space."""
        decay, weight_DN2 = self._discretised()
        y_BTD, h = scan(x_BTD, decay, weight_DN2, state["h"] if state else None)
        return (y_BTD + at_least_float32(x_BTD) * at_least_float32(self.skip)).to(x_BTD.dtype), {"h": h}

    def _discretised(self) -> tuple[Decay, Tensor]:
        """Return exp(step A), and the weight 2 C (exp(step A) - 1) / A."""
        step_D1 = torch.exp(at_least_float32(self.log_step))[:, None]
        rate, frequency = torch.exp(at_least_float32(self.log_rate)), at_least_float32(self.frequency)
        decay = Decay(-step_D1 * rate, step_D1 * frequency)
        growth, angle = torch.expm1(decay.log_radius_DN), step_D1 * frequency
        shifted = torch.stack((growth * angle.cos() - 2 * (angle / 2).sin() ** 2, (growth + 1) * angle.sin()), dim=-1)
        inverse = torch.stack((-rate, -frequency), dim=-1) / (rate**2 + frequency**2)[..., None]
        return decay, 2 * product(at_least_float32(self.read), product(shifted, inverse))
