from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Factory, Heads, Param, Recurrent, State, StateScope, TensorPlan, Width, choice, register, slot
from archlab.components._dt import softplus
from archlab.components._init import Init, linear
from archlab.ops.dtypes import at_least_float32
from archlab.ops.linear_recurrence import linear_recurrence

from ._heads import head_width, heads

SHARPNESS = 8.0  # c of the paper: a gate that is fully open decays as 8 steps of one that has no gate
MIN_RADIUS, MAX_RADIUS = 0.9, 0.999  # of the decays at initialization


@register(
    "mixer",
    "rg_lru",
    search={"num_heads": choice(1, 2, 4, 8)},
    params={
        "gate.weight": Param("hidden", tensor="column"),
        "gate.bias": Param("vector", tensor="column"),
        "value.weight": Param("hidden", tensor="column"),
        "value.bias": Param("vector", tensor="column"),
        "*_gate.weight": Param("hidden", tensor="heads", fan_in=1, fan_out=2),
        "*_gate.bias": Param("vector", tensor="heads"),
        "rate": Param("vector", tensor="column"),
        "out.weight": Param("hidden", tensor="row", branch=True),
        "out.bias": Param("vector", branch=True),
    },
    tensor=TensorPlan(counts=("num_heads",), parts=("ema",)),
)
class RGLRU(Recurrent):
    """Griffin's recurrent block around its real-gated linear recurrent unit, RG-LRU (arXiv:2402.19427).

    x: [B, T, D] -> [B, T, D], out(gelu(gate x) * h) with h_t = a_t h_{t-1} + sqrt(1 - a_t²) (i_t * u_t), where
    u = ema(value x), a = exp(-8 r softplus(rate)), and i and r are sigmoids of a linear function of each head of u.
    State: that of the convolution, position [B], and h [B, width] in at least float32.
    Raises ValueError where num_heads does not divide the width.
    Deviations: as in the authors' code, the first token of a stream enters h without the factor sqrt(1 - a²), and
    decays begin as exp(-softplus(rate)), uniform in a ring of radius 0.9 to 0.999. The gradient of the root is not cut.

    Args:
        width: Number of channels of the recurrence; null for D.
        num_heads: Number of heads, in each of which the gates read all channels.
        ema: Short convolution or moving average before the recurrence; Griffin's has a bias.
        bias: Whether the projections of the input and the output have a bias.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        width: Width | None = None,
        num_heads: Heads = 4,
        ema: Factory = slot("ema", "short_conv"),
        bias: bool = True,
        init: Init = "he",
    ) -> None:
        super().__init__()
        width = width or dim
        self.num_heads, size = num_heads, head_width("width", width, num_heads)
        self.gate = linear(dim, width, bias=bias, init=init)
        self.value = linear(dim, width, bias=bias, init=init)
        self.ema = ema(width)
        self.input_gate, self.decay_gate = HeadLinear(num_heads, size), HeadLinear(num_heads, size)
        self.rate = nn.Parameter(torch.empty(width))
        self.out = linear(width, dim, bias=bias, init=init)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the rates so that decays are in the ring, evenly over its area."""
        log_radius = self.rate.uniform_(MIN_RADIUS**2, MAX_RADIUS**2).log_().mul_(0.5)
        log_radius.neg_().expm1_().log_()  # the inverse of softplus, log(e^x - 1)

    def init_state(self, batch_size: int) -> State:
        """Return the position 0, and zeros."""
        h = at_least_float32(self.rate).new_zeros(batch_size, len(self.rate))
        position = torch.zeros(batch_size, dtype=torch.int64, device=h.device)
        return super().init_state(batch_size) | {"position": position, "h": h}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Convolve, gate, scan, and gate the output."""
        state = state or self.init_state(x_BTD.shape[0])
        scope, T = StateScope(state), x_BTD.shape[1]
        u_BTHW = heads(scope("ema", self.ema, self.value(x_BTD)), self.num_heads)
        i, r = (torch.sigmoid(at_least_float32(g(u_BTHW))).flatten(-2) for g in (self.input_gate, self.decay_gate))
        log_decay = -SHARPNESS * r * softplus(at_least_float32(self.rate))
        is_first = (state["position"][:, None] + torch.arange(T, device=x_BTD.device) == 0)[..., None]
        added = at_least_float32(u_BTHW.flatten(-2)) * i * torch.where(is_first, 1.0, _root(log_decay))
        h_BTD, last = linear_recurrence(added, log_decay.exp(), state["h"])
        y_BTD = self.out(h_BTD.to(x_BTD.dtype) * F.gelu(self.gate(x_BTD), approximate="tanh"))
        return y_BTD, scope.state | {"position": state["position"] + T, "h": last}


class HeadLinear(nn.Module):
    """A linear function of each head, y = x W + b, with weights [H, W, W].

    x: [B, T, H, W] -> [B, T, H, W].
    """

    bias: nn.Parameter | None

    def __init__(self, num_heads: int, size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, size, size))
        self.register_parameter("bias", nn.Parameter(torch.empty(num_heads, size)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights that keep the variance of their inputs, as LeCun's, and zero the bias."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x_BTHW: Tensor) -> Tensor:
        """Multiply each head by its matrix."""
        product_HRW = x_BTHW.flatten(0, 1).transpose(0, 1) @ self.weight.to(x_BTHW.dtype)
        y_BTHW = product_HRW.transpose(0, 1).unflatten(0, x_BTHW.shape[:2])
        return y_BTHW if self.bias is None else y_BTHW + self.bias.to(x_BTHW.dtype)


def _root(log_decay: Tensor) -> Tensor:
    """Return sqrt(1 - a²), for decays near 1 too; the gradient is finite where a is 1."""
    return torch.sqrt(-torch.expm1(2 * log_decay) + torch.finfo(log_decay.dtype).tiny)
