from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Factory, Param, Positive, Recurrent, State, StateScope, TensorPlan, choice, register, slot
from archlab.components._dt import check_dt_range, init_dt_bias_, softplus
from archlab.components._init import Init, linear
from archlab.components.ema.short_conv import ShortConvolution
from archlab.ops.dtypes import at_least_float32
from archlab.ops.selective_scan import selective_scan


@register(
    "mixer",
    "mamba",
    search={"state_dim": choice(8, 16, 32), "expand": choice(1, 2)},
    params={
        "x_proj.weight": Param("hidden", tensor="column"),
        "x_proj.bias": Param("vector", tensor="column"),
        "z_proj.weight": Param("hidden", tensor="column"),
        "z_proj.bias": Param("vector", tensor="column"),
        "dt_down.weight": Param("hidden", tensor="row"),
        "dt_proj.weight": Param("hidden", tensor="column"),
        "dt_proj.bias": Param("vector", tensor="column"),
        "B_proj.weight": Param("output", tensor="row"),
        "C_proj.weight": Param("output", tensor="row"),
        "A_log": Param("vector", tensor="column"),
        "D": Param("vector", tensor="column"),
        "out_proj.weight": Param("hidden", tensor="row", branch=True),
        "out_proj.bias": Param("vector", branch=True),
    },
    tensor=TensorPlan(parts=("conv",)),
)
class Mamba(Recurrent):
    """Selective state space model between a short convolution and a gate, Mamba (arXiv:2312.00752).

    x: [B, T, D] -> [B, T, D].  State: the convolution's past, and states [B, expand * D, state_dim] in at least
    float32.  Projections and parameters are named as in the paper and its code; `in_proj` there is x_proj and z_proj,
    `x_proj` there is dt_down, B_proj and C_proj.
    Raises ValueError where dt_min is above dt_max, and for an inner_norm with a state.

    Args:
        state_dim: Size N of the state of each channel.
        expand: Number of inner channels per channel of the model.
        conv_size: Length of the short convolution in tokens.
        conv_bias: Whether the short convolution has a bias.
        dt_rank: Rank of the projection to dt; null for D / 16, rounded up.
        dt_min: Smallest time step dt at initialization.
        dt_max: Largest time step dt at initialization.
        bias: Whether the input and output projections have a bias.
        inner_norm: Norm of dt before its projection, of B and of C, as in Jamba (arXiv:2403.19887).
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        state_dim: Count = 16,
        expand: Count = 2,
        conv_size: Count = 4,
        conv_bias: bool = True,
        dt_rank: Count | None = None,
        dt_min: Positive = 0.001,
        dt_max: Positive = 0.1,
        bias: bool = False,
        inner_norm: Factory = slot("norm", "none"),
        init: Init = "normal",
    ) -> None:
        super().__init__()
        check_dt_range(dt_min, dt_max)
        width, dt_rank = expand * dim, dt_rank or -(-dim // 16)
        self.dt_range = (dt_min, dt_max)
        self.x_proj = linear(dim, width, bias=bias, init=init)
        self.z_proj = linear(dim, width, bias=bias, init=init)
        self.conv = ShortConvolution(width, kernel_size=conv_size, bias=conv_bias)
        self.dt_down = linear(width, dt_rank, bias=False, init=init)
        self.dt_proj = linear(dt_rank, width, bias=True, init=init)
        self.B_proj = linear(width, state_dim, bias=False, init=init)
        self.C_proj = linear(width, state_dim, bias=False, init=init)
        self.dt_norm, self.B_norm, self.C_norm = inner_norm(dt_rank), inner_norm(state_dim), inner_norm(state_dim)
        if isinstance(self.dt_norm, Recurrent):
            raise ValueError(f"inner_norm {type(self.dt_norm).__name__} has a state, which a norm of dt cannot have")
        self.A_log = nn.Parameter(torch.empty(width, state_dim))
        self.D = nn.Parameter(torch.empty(width))
        self.out_proj = linear(width, dim, bias=bias, init=init)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialize A = -(1, ..., N) (S4D-Real, section 3.6), log-uniform dt, and D = 1."""
        order_N = torch.arange(1, self.A_log.shape[1] + 1, dtype=self.A_log.dtype, device=self.A_log.device)
        self.A_log.copy_(order_N.log().expand_as(self.A_log))
        bound = self.dt_proj.in_features**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        init_dt_bias_(self.dt_proj.bias, *self.dt_range)
        nn.init.ones_(self.D)

    def init_state(self, batch_size: int) -> State:
        """Return zero states."""
        states = at_least_float32(self.A_log).new_zeros(batch_size, *self.A_log.shape)
        return super().init_state(batch_size) | {"states": states}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Convolve, scan (algorithm 2 of the paper) and gate."""
        scope = StateScope(state)
        x = F.silu(scope("conv", self.conv, self.x_proj(x_BTD)))
        dt = softplus(at_least_float32(self.dt_proj(self.dt_norm(self.dt_down(x)))))
        A, B, C = -at_least_float32(self.A_log).exp(), self.B_norm(self.B_proj(x)), self.C_norm(self.C_proj(x))
        y, states = selective_scan(x, dt, A, B, C, state["states"] if state else None)
        gated = (y + self.D.to(x.dtype) * x) * F.silu(self.z_proj(x_BTD))
        return self.out_proj(gated), scope.state | {"states": states}
