from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Param, Positive, choice, register
from archlab.ops.dtypes import at_least_float32

from ._affine import SCALE_AND_SHIFT


@register(
    "norm", "dyt", params={**SCALE_AND_SHIFT, "alpha": Param("vector")}, search={"init_alpha": choice(0.2, 0.5, 1)}
)
class DynamicTanh(nn.Module):
    """Dynamic tanh in a norm's place, weight tanh(alpha x) + bias with one learned alpha (arXiv:2503.10622).

    x: [..., D] -> [..., D], each number by itself, so that no statistics are summed.

    Args:
        init_alpha: Where alpha begins; the paper takes less for wider models, and more before attention than elsewhere.
    """

    def __init__(self, dim: int, *, init_alpha: Positive = 0.5) -> None:
        super().__init__()
        self.init_alpha = init_alpha
        self.alpha = nn.Parameter(torch.empty(()))
        self.weight, self.bias = nn.Parameter(torch.empty(dim)), nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the scale to one and the shift to zero."""
        nn.init.constant_(self.alpha, self.init_alpha)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def shrink_branch(self, factor: float) -> None:
        """Multiply the scale, and with it the output, by a factor at initialization."""
        self.weight.mul_(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Squash every number, scale and shift."""
        wide = at_least_float32(x)
        alpha, weight, bias = (each.to(wide.dtype) for each in (self.alpha, self.weight, self.bias))
        return ((alpha * wide).tanh() * weight + bias).to(x.dtype)
