from __future__ import annotations

from torch import Tensor, nn

from archlab import TensorPlan, register


@register("norm", "none", tensor=TensorPlan())
class NoNorm(nn.Module):
    """No normalization: the identity.

    x: [..., D] -> [..., D].
    """

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        return x
