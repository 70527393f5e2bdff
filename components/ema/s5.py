from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from archlab import Count, Param, Positive, State, Width, choice, register
from archlab.components._dt import check_dt_range
from archlab.components.ema._diagonal import DiagonalRecurrence, decay_over, legendre_frequencies, zero_order_hold
from archlab.ops.diagonal_scan import Decay, complex_mul, complex_scan
from archlab.ops.dtypes import at_least_float32


@register(
    "ema",
    "s5",
    search={"state_dim": choice(16, 32, 64, 128), "block_dim": choice(4, 8, 16, 32)},
    params={"read.weight": Param("hidden"), "write.weight": Param("hidden"), "*": Param("vector")},
    carry="associative",
)
class SimplifiedStateSpace(DiagonalRecurrence):
    """State space model with one diagonal state for all channels, S5 (arXiv:2208.04933).

    x: [B, T, D] -> [B, T, D], 2 Re(C h_t) + skip x_t with h_t = exp(dt A) h_{t-1} + (exp(dt A) - 1) / A B x_t.
    State: h [B, N, 2], real and imaginary; each stands for itself and its conjugate, so that the paper's P is 2 N.
    A is at first that of HiPPO-LegS without its part of rank 1, in blocks; each state has a dt of its own, at first
    log-uniform; B and C are complex matrices. Channels read each other, so that no rank has a part of them.
    Raises ValueError where dt_min is above dt_max.
    Deviations: the real part of A is -exp of a parameter. Activation and gate after it are those of mixer `ema`.

    Args:
        state_dim: Number N of complex states; null for D / 2.
        block_dim: Number of complex states of a block of A, half of the size of its matrix.
        dt_min: Smallest time step dt at initialization.
        dt_max: Largest time step dt at initialization.
    """

    def __init__(
        self,
        dim: int,
        *,
        state_dim: Width | None = None,
        block_dim: Count = 16,
        dt_min: Positive = 1e-3,
        dt_max: Positive = 0.1,
    ) -> None:
        super().__init__()
        check_dt_range(dt_min, dt_max)
        self.state_dim = state_dim or max(1, dim // 2)
        self.block_dim, self.dt_min, self.dt_max = block_dim, dt_min, dt_max
        self.log_step = nn.Parameter(torch.empty(self.state_dim))
        self.log_rate = nn.Parameter(torch.empty(self.state_dim))
        self.frequency = nn.Parameter(torch.empty(self.state_dim))
        # Real parts of all states, then imaginary ones.
        self.write = nn.Linear(dim, 2 * self.state_dim, bias=False)
        self.read = nn.Linear(2 * self.state_dim, dim, bias=False)
        self.skip = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set A, and draw dt, B, C and the skip.

        The paper draws real B and turns it by the eigenvectors V of A: Vᴴ B. As V is unitary and its columns come in
        conjugate pairs, that is a complex normal distribution, from which B is drawn here; C V likewise.
        """
        block = torch.from_numpy(legendre_frequencies(self.block_dim))
        self.frequency.copy_(block.repeat(-(-self.state_dim // self.block_dim))[: self.state_dim])
        nn.init.constant_(self.log_rate, math.log(0.5))
        nn.init.uniform_(self.log_step, math.log(self.dt_min), math.log(self.dt_max))
        nn.init.normal_(self.write.weight, std=(2 * self.write.in_features) ** -0.5)
        nn.init.normal_(self.read.weight, std=self.read.in_features**-0.5)
        nn.init.normal_(self.skip)

    def init_state(self, batch_size: int) -> State:
        """Return h = 0."""
        return {"h": at_least_float32(self.log_rate).new_zeros(batch_size, self.state_dim, 2)}

    def summarize(self, x_BTD: Tensor) -> State:
        """Return the state after a piece that starts from 0, and the factor of an earlier state."""
        decay, u_BTN2 = self._inputs(x_BTD)
        _, h = complex_scan(u_BTN2, decay, None)
        return {"h": h, "factor": decay_over(x_BTD.shape[1], decay, h)[:, 0].expand_as(h).contiguous()}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Write the channels to the states, run these, and read the channels from them."""
        decay, u_BTN2 = self._inputs(x_BTD)
        h_BTN2, h = complex_scan(u_BTN2, decay, state["h"] if state else None)
        parts_BTJ = torch.cat((h_BTN2[..., 0], -h_BTN2[..., 1]), -1)
        y_BTD = 2 * self.read(parts_BTJ.to(x_BTD.dtype)) + x_BTD * self.skip.to(x_BTD.dtype)
        return y_BTD.to(x_BTD.dtype), {"h": h}

    def _inputs(self, x_BTD: Tensor) -> tuple[Decay, Tensor]:
        """Return the decay exp(dt A), and (exp(dt A) - 1) / A B x [B, T, N, 2] in at least float32."""
        decay, held_N12 = zero_order_hold(self.log_step[:, None], self.log_rate[:, None], self.frequency[:, None])
        written_BTN2 = at_least_float32(self.write(x_BTD)).unflatten(-1, (2, -1)).transpose(-1, -2)
        return decay, complex_mul(written_BTN2, held_N12[:, 0])
