from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Positive, Recurrent, State, StateScope, choice, register
from archlab.components._init import Init, linear
from archlab.components._steps import init_dt_bias_, require_order, softplus
from archlab.components.ema.short_conv import ShortConvolution
from archlab.ops.dtypes import at_least_float32
from archlab.ops.selective_scan import selective_scan


@register("mixer", "mamba", search={"state_dim": choice(8, 16, 32), "expand": choice(1, 2)})
class Mamba(Recurrent):
    """A selective state space between a short convolution and a gate, Mamba (arXiv:2312.00752).

    x: [B, T, D] -> [B, T, D].  State: the convolution's past, and states [B, expand * D, state_dim] in at least
    float32.  Steps are softplus of a map of rank step_rank (D / 16 unless said otherwise), and begin between min_step
    and max_step.  Raises ValueError where min_step is above max_step.
    """

    def __init__(
        self,
        dim: int,
        *,
        state_dim: Count = 16,
        expand: Count = 2,
        conv_size: Count = 4,
        conv_bias: bool = True,
        step_rank: Count | None = None,
        min_step: Positive = 0.001,
        max_step: Positive = 0.1,
        bias: bool = False,
        init: Init = "normal",
    ) -> None:
        super().__init__()
        require_order(min_step, max_step)
        width, step_rank = expand * dim, step_rank or -(-dim // 16)
        self.begin = (min_step, max_step)
        self.value = linear(dim, width, bias=bias, init=init)
        self.gate = linear(dim, width, bias=bias, init=init)
        self.conv = ShortConvolution(width, kernel_size=conv_size, bias=conv_bias)
        self.step_down = linear(width, step_rank, bias=False, init=init)
        self.step = linear(step_rank, width, bias=True, init=init)
        self.taken = linear(width, state_dim, bias=False, init=init)
        self.given = linear(width, state_dim, bias=False, init=init)
        self.log_rate = nn.Parameter(torch.empty(width, state_dim))
        self.skip = nn.Parameter(torch.empty(width))
        self.out = linear(width, dim, bias=bias, init=init)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin with rates 1 to N, small steps, and inputs that pass."""
        places = torch.arange(1, self.log_rate.shape[1] + 1, dtype=self.log_rate.dtype, device=self.log_rate.device)
        self.log_rate.copy_(places.log().expand_as(self.log_rate))
        nn.init.uniform_(self.step.weight, -(self.step.in_features**-0.5), self.step.in_features**-0.5)
        init_dt_bias_(self.step.bias, *self.begin)
        nn.init.ones_(self.skip)

    def init_state(self, batch_size: int) -> State:
        """Return empty states."""
        empty = at_least_float32(self.log_rate).new_zeros(batch_size, *self.log_rate.shape)
        return super().init_state(batch_size) | {"states": empty}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Convolve, scan, gate."""
        stream = StateScope(state)
        v = F.silu(stream("conv", self.conv, self.value(x_BTD)))
        step = softplus(at_least_float32(self.step(self.step_down(v))))
        rate = -at_least_float32(self.log_rate).exp()
        y, states = selective_scan(v, step, rate, self.taken(v), self.given(v), state["states"] if state else None)
        gated = (y + self.skip.to(v.dtype) * v) * F.silu(self.gate(x_BTD))
        return self.out(gated), stream.state | {"states": states}
