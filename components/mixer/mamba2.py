from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Positive, Recurrent, State, StateScope, choice, register
from archlab.components._init import Init, linear
from archlab.components._steps import init_dt_bias_, require_order, softplus
from archlab.components.ema.short_conv import ShortConvolution
from archlab.components.norm.rms import RMSNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.gated_linear import gated_linear

from ._heads import head_width, heads


@register("mixer", "mamba2", search={"state_dim": choice(16, 32, 64, 128), "head_dim": choice(16, 32, 64)})
class Mamba2(Recurrent):
    """A state space with one decay a head, between a short convolution and a gated norm, Mamba-2 (arXiv:2405.21060).

    x: [B, T, D] -> [B, T, D].  State: the convolution's past, and states [B, H, state_dim, head_dim] in at least
    float32.  Heads share what is taken in and given out, and are normalised, in num_groups groups; steps begin between
    min_step and max_step.  Raises ValueError where head_dim does not divide expand * D, num_groups does not divide the
    number of heads, or min_step is above max_step.
    """

    def __init__(
        self,
        dim: int,
        *,
        state_dim: Count = 128,
        expand: Count = 2,
        head_dim: Count = 64,
        num_groups: Count = 1,
        conv_size: Count = 4,
        conv_bias: bool = True,
        min_step: Positive = 0.001,
        max_step: Positive = 0.1,
        bias: bool = False,
        eps: Positive = 1e-5,
        init: Init = "normal",
    ) -> None:
        super().__init__()
        require_order(min_step, max_step)
        width = expand * dim
        if width % head_dim:
            raise ValueError(f"expand * dim {width} is not divisible by head_dim {head_dim}")
        self.num_heads, self.num_groups = width // head_dim, num_groups
        self.shared = head_width("the number of heads", self.num_heads, num_groups)
        self.head_dims, self.begin, wide = (state_dim, head_dim), (min_step, max_step), num_groups * state_dim
        self.widths = [width, wide, wide]
        self.gate = linear(dim, width, bias=bias, init=init)
        self.value = linear(dim, width, bias=bias, init=init)
        self.taken = linear(dim, wide, bias=bias, init=init)
        self.given = linear(dim, wide, bias=bias, init=init)
        self.step = linear(dim, self.num_heads, bias=bias, init=init)
        self.conv = ShortConvolution(sum(self.widths), kernel_size=conv_size, bias=conv_bias)
        self.step_bias = nn.Parameter(torch.empty(self.num_heads))
        self.log_rate = nn.Parameter(torch.empty(self.num_heads))
        self.skip = nn.Parameter(torch.empty(self.num_heads))
        self.norm = RMSNorm(width // num_groups, eps=eps, affine=False)
        self.scale = nn.Parameter(torch.empty(width))
        self.out = linear(width, dim, bias=bias, init=init)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin with rates 1 to H, small steps, and inputs that pass."""
        init_dt_bias_(self.step_bias, *self.begin)
        self.log_rate.copy_(torch.arange(1, self.num_heads + 1, device=self.log_rate.device).log())
        nn.init.ones_(self.skip)
        nn.init.ones_(self.scale)

    def init_state(self, batch_size: int) -> State:
        """Return empty states."""
        empty = at_least_float32(self.log_rate).new_zeros(batch_size, self.num_heads, *self.head_dims)
        return super().init_state(batch_size) | {"states": empty}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Convolve, scan, gate and normalise."""
        stream = StateScope(state)
        mapped = torch.cat([part(x_BTD) for part in (self.value, self.taken, self.given)], -1)
        v, taken, given = F.silu(stream("conv", self.conv, mapped)).split(self.widths, -1)
        v_BTHV = heads(v, self.num_heads)
        k, q = (heads(part, self.num_groups).repeat_interleave(self.shared, 2) for part in (taken, given))
        step = softplus(at_least_float32(self.step(x_BTD)) + at_least_float32(self.step_bias))[..., None]
        log_decay = -step * at_least_float32(self.log_rate).exp()[:, None]
        y, states = gated_linear(q, at_least_float32(k) * step, v_BTHV, log_decay, state["states"] if state else None)
        skipped = (y + self.skip.to(v.dtype)[:, None] * v_BTHV).flatten(-2)
        gated = heads(skipped * F.silu(self.gate(x_BTD)), self.num_groups)
        return self.out(self.norm(gated).flatten(-2) * self.scale.to(v.dtype)), stream.state | {"states": states}
