from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Param, Positive, Recurrent, State, StateScope, Width, choice, register
from archlab.components._dt import check_dt_range, init_dt_bias_, softplus
from archlab.components._factor import times
from archlab.components._init import Init, linear
from archlab.components.ema.short_conv import ShortConvolution
from archlab.components.norm.rms import RMSNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.gated_linear import gated_linear

from ._heads import head_width, heads

OutputNorm: TypeAlias = Literal["after_gate", "before_gate", "none"]
PARAMS: dict[str, Param] = {
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
}


@register(
    "mixer",
    "mamba2",
    search={"state_dim": choice(16, 32, 64, 128), "head_dim": choice(16, 32, 64)},
    params=PARAMS,
)
class Mamba2(Recurrent):
    """State space model with one decay per head, a short convolution and a gated norm, Mamba-2 (arXiv:2405.21060).

    x: [B, T, D] -> [B, T, D].  State: the convolution's past, and states [B, H, state_dim, head_dim] in at least
    float32.  Projections and parameters are named as in the paper and its code, where `in_proj` is all but out_proj.
    Raises ValueError where head_dim does not divide the inner channels, num_groups does not divide the number of
    heads, or dt_min is above dt_max.

    Args:
        state_dim: Size N of the state of each channel.
        expand: Number of inner channels per channel of the model.
        width: Number of inner channels; null for expand * D.
        head_dim: Width of a head; there are as many heads as it divides the inner channels into.
        num_groups: Number of groups of heads, each of which shares B and C and is normalized together.
        conv_size: Length of the short convolution in tokens.
        conv_bias: Whether the short convolution has a bias.
        dt_min: Smallest time step dt at initialization.
        dt_max: Largest time step dt at initialization.
        dt_floor: Number to which a smaller time step is raised, as in Nemotron-H (arXiv:2504.03624); null for none.
        bias: Whether the projections have a bias.
        output_norm: Whether the output is normalized, and that after or before it is gated; Falcon-H1 has models with
            `none` (arXiv:2507.22448).
        eps: Constant added to the mean square in the output norm.
        z_factor: Factor of the projection to the gate, as the following are of the others, in Falcon-H1.
        x_factor: Factor of the projection to x.
        B_factor: Factor of the projection to B.
        C_factor: Factor of the projection to C.
        dt_factor: Factor of the projection to dt.
        init: Distribution of the projections' weights.
    """

    scale: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        *,
        state_dim: Count = 128,
        expand: Count = 2,
        width: Width | None = None,
        head_dim: Count = 64,
        num_groups: Count = 1,
        conv_size: Count = 4,
        conv_bias: bool = True,
        dt_min: Positive = 0.001,
        dt_max: Positive = 0.1,
        dt_floor: Positive | None = None,
        bias: bool = False,
        output_norm: OutputNorm = "after_gate",
        eps: Positive = 1e-5,
        z_factor: Positive = 1.0,
        x_factor: Positive = 1.0,
        B_factor: Positive = 1.0,
        C_factor: Positive = 1.0,
        dt_factor: Positive = 1.0,
        init: Init = "normal",
    ) -> None:
        super().__init__()
        check_dt_range(dt_min, dt_max)
        inner = "expand * dim" if width is None else "width"
        width = width or expand * dim
        if width % head_dim:
            raise ValueError(f"{inner} {width} is not divisible by head_dim {head_dim}")
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
        self.norm, self.output_norm = RMSNorm(width // num_groups, eps=eps, affine=False), output_norm
        self.register_parameter("scale", None if output_norm == "none" else nn.Parameter(torch.empty(width)))
        self.z_factor, self.dt_factor, self.factors = z_factor, dt_factor, (x_factor, B_factor, C_factor)
        self.dt_floor = dt_floor
        self.out_proj = linear(width, dim, bias=bias, init=init)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize A = -(1, ..., H), log-uniform dt, and D = 1."""
        init_dt_bias_(self.dt_bias, *self.dt_range)
        self.A_log.copy_(torch.arange(1, self.num_heads + 1, device=self.A_log.device).log())
        nn.init.ones_(self.D)
        if self.scale is not None:
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
        parts = zip(self.factors, (self.x_proj, self.B_proj, self.C_proj), strict=True)
        projected = torch.cat([times(factor, part(x_BTD)) for factor, part in parts], -1)
        x, B, C = F.silu(scope("conv", self.conv, projected)).split(self.widths, -1)
        x_BTHV = heads(x, self.num_heads)
        k, q = (heads(part, self.num_groups).repeat_interleave(self.group_size, 2) for part in (B, C))
        dt = times(self.dt_factor, self.dt_proj(x_BTD))
        dt = softplus(at_least_float32(dt) + at_least_float32(self.dt_bias))[..., None]
        dt = dt if self.dt_floor is None else dt.clamp(min=self.dt_floor)
        log_decay = -dt * at_least_float32(self.A_log).exp()[:, None]
        y, own = self.scan(q, at_least_float32(k) * dt, x_BTHV, log_decay, x_BTD, state)
        skipped = (y + self.D.to(x.dtype)[:, None] * x_BTHV).flatten(-2)
        gate = F.silu(times(self.z_factor, self.z_proj(x_BTD)))
        return self.out_proj(self._gate(skipped, gate)), scope.state | own

    def scan(
        self, q_BTHK: Tensor, k: Tensor, v: Tensor, log_decay_BTH1: Tensor, x_BTD: Tensor, state: State | None
    ) -> tuple[Tensor, State]:
        """Return the states, read by each query [B, T, H, V], and the last ones."""
        y_BTHV, states = gated_linear(q_BTHK, k, v, log_decay_BTH1, state["states"] if state else None)
        return y_BTHV, {"states": states}

    def _gate(self, y: Tensor, gate: Tensor) -> Tensor:
        """Return the gated output, normalized before or after."""
        if self.output_norm == "before_gate":
            return self._normalize(y) * gate
        return self._normalize(y * gate) if self.output_norm == "after_gate" else y * gate

    def _normalize(self, y: Tensor) -> Tensor:
        scale = self.scale
        assert scale is not None
        return self.norm(heads(y, self.num_groups)).flatten(-2) * scale.to(y.dtype)
