from __future__ import annotations

from torch import Tensor, nn

from archlab import TensorPlan, register


@register("ema", "none", tensor=TensorPlan())
class NoEMA(nn.Module):
    """No moving average: the identity.

    x: [B, T, D] -> [B, T, D].
    """

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return x."""
        return x_BTD
