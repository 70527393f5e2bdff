from __future__ import annotations

from torch import Tensor

from archlab import Factory, Param, Recurrent, State, StateScope, TensorPlan, register, slot
from archlab.components._init import Init, linear


@register(
    "mixer",
    "gated_conv",
    params={
        "gate_in.weight": Param("hidden", tensor="column"),
        "gate_in.bias": Param("vector", tensor="column"),
        "gate_out.weight": Param("hidden", tensor="column"),
        "gate_out.bias": Param("vector", tensor="column"),
        "value.weight": Param("hidden", tensor="column"),
        "value.bias": Param("vector", tensor="column"),
        "out.weight": Param("hidden", tensor="row", branch=True),
        "out.bias": Param("vector", branch=True),
    },
    tensor=TensorPlan(parts=("ema",)),
)
class GatedConvolution(Recurrent):
    """A short convolution between two gates that are linear in the token, the convolution block of LFM2.

    x: [B, T, D] -> [B, T, D], out(c * ema(b * v)) with b, c and v each a projection of x (arXiv:2511.23404).

    Args:
        ema: Short convolution or moving average of each channel.
        bias: Whether the projections have a bias.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self, dim: int, *, ema: Factory = slot("ema", "short_conv"), bias: bool = False, init: Init = "he"
    ) -> None:
        super().__init__()
        self.gate_in = linear(dim, dim, bias=bias, init=init)
        self.gate_out = linear(dim, dim, bias=bias, init=init)
        self.value = linear(dim, dim, bias=bias, init=init)
        self.ema = ema(dim)
        self.out = linear(dim, dim, bias=bias, init=init)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Gate, convolve, gate and project."""
        scope = StateScope(state)
        y_BTD = scope("ema", self.ema, self.gate_in(x_BTD) * self.value(x_BTD))
        return self.out(self.gate_out(x_BTD) * y_BTD), scope.state
