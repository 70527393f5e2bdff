from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Param, Positive, Recurrent, State, StateScope, choice, register
from archlab.components._dt import check_dt_range, init_dt_bias_, softplus
from archlab.components._init import Init, linear
from archlab.components.ema.short_conv import ShortConvolution
from archlab.components.norm.rms import RMSNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.gated_linear import gated_linear

from ._heads import head_width, heads


@register(
    "mixer",
    "mamba2",
    search={"state_dim": choice(16, 32, 64, 128), "head_dim": choice(16, 32, 64)},
    params={
        "z_proj.weight": Param("hidden", tensor="row"),
        "z_proj.bias": Param("vector"),
        "x_proj.weight": Param("hidden", tensor="row"),
        "x_proj.bias": Param("vector"),
        "B_proj.weight": Param("output"),
        "B_proj.bias": Param("vector"),
        "C_proj.weight": Param("output"),
        "C_proj.bias": Param("vector"),
        "dt_proj.weight": Param("hidden"),
        "dt_proj.bias": Param("vector"),
        "dt_bias": Param("vector"),
        "A_log": Param("vector"),
        "D": Param("vector"),
        "scale": Param("vector"),
        "out_proj.weight": Param("hidden", tensor="row", branch=True),
        "out_proj.bias": Param("vector", branch=True),
    },
)
class Mamba2(Recurrent):
    """State space model with one decay per head, a short convolution and a gated norm, Mamba-2 (arXiv:2405.21060).

    x: [B, T, D] -> [B, T, D].  State: the convolution's past, and states [B, H, state_dim, head_dim] in at least
    float32.  Projections and parameters are named as in the paper and its code, where `in_proj` is all but out_proj.
    Raises ValueError where head_dim does not divide expand * D, num_groups does not divide the number of heads, or
    dt_min is above dt_max.

    Args:
        state_dim: Size N of the state of each channel.
        expand: Number of inner channels per channel of the model.
        head_dim: Width of a head; there are expand * D / head_dim heads.
        num_groups: Number of groups of heads, each of which shares B and C and is normalized together.
        conv_size: Length of the short convolution in tokens.
        conv_bias: Whether the short convolution has a bias.
        dt_min: Smallest time step dt at initialization.
        dt_max: Largest time step dt at initialization.
        bias: Whether the projections have a bias.
        eps: Constant added to the mean square in the output norm.
        init: Distribution of the projections' weights.
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
        dt_min: Positive = 0.001,
        dt_max: Positive = 0.1,
        bias: bool = False,
        eps: Positive = 1e-5,
        init: Init = "normal",
    ) -> None:
        super().__init__()
        check_dt_range(dt_min, dt_max)
        width = expand * dim
        if width % head_dim:
            raise ValueError(f"expand * dim {width} is not divisible by head_dim {head_dim}")
        self.num_heads, self.num_groups = width // head_dim, num_groups
        self.group_size = head_width("the number of heads", self.num_heads, num_groups)
        self.head_dims, self.dt_range, group_dim = (state_dim, head_dim), (dt_min, dt_max), num_groups * state_dim
        self.widths = [width, group_dim, group_dim]
        self.z_proj = linear(dim, width, bias=bias, init=init)
        self.x_proj = linear(dim, width, bias=bias, init=init)
        self.B_proj = linear(dim, group_dim, bias=bias, init=init)
        self.C_proj = linear(dim, group_dim, bias=bias, init=init)
        self.dt_proj = linear(dim, self.num_heads, bias=bias, init=init)
        self.conv = ShortConvolution(sum(self.widths), kernel_size=conv_size, bias=conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads))
        self.A_log = nn.Parameter(torch.empty(self.num_heads))
        self.D = nn.Parameter(torch.empty(self.num_heads))
        # The norm's scale differs from group to group, so it is a parameter of all channels beside the norm.
        self.norm = RMSNorm(width // num_groups, eps=eps, affine=False)
        self.scale = nn.Parameter(torch.empty(width))
        self.out_proj = linear(width, dim, bias=bias, init=init)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize A = -(1, ..., H), log-uniform dt, and D = 1."""
        init_dt_bias_(self.dt_bias, *self.dt_range)
        self.A_log.copy_(torch.arange(1, self.num_heads + 1, device=self.A_log.device).log())
        nn.init.ones_(self.D)
        nn.init.ones_(self.scale)

    def init_state(self, batch_size: int) -> State:
        """Return zero states."""
        states = at_least_float32(self.A_log).new_zeros(batch_size, self.num_heads, *self.head_dims)
        return super().init_state(batch_size) | {"states": states}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Convolve, scan, gate and normalize.

        State space duality: the scan is gated linear attention with queries C, keys dt B, values x and decay exp(dt A).
        """
        scope = StateScope(state)
        projected = torch.cat([part(x_BTD) for part in (self.x_proj, self.B_proj, self.C_proj)], -1)
        x, B, C = F.silu(scope("conv", self.conv, projected)).split(self.widths, -1)
        x_BTHV = heads(x, self.num_heads)
        k, q = (heads(part, self.num_groups).repeat_interleave(self.group_size, 2) for part in (B, C))
        dt = softplus(at_least_float32(self.dt_proj(x_BTD)) + at_least_float32(self.dt_bias))[..., None]
        log_decay = -dt * at_least_float32(self.A_log).exp()[:, None]
        y, states = gated_linear(q, at_least_float32(k) * dt, x_BTHV, log_decay, state["states"] if state else None)
        skipped = (y + self.D.to(x.dtype)[:, None] * x_BTHV).flatten(-2)
        gated = heads(skipped * F.silu(self.z_proj(x_BTD)), self.num_groups)
        return self.out_proj(self.norm(gated).flatten(-2) * self.scale.to(x.dtype)), scope.state | {"states": states}
