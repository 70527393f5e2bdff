"""A norm with a learned scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Param
from archlab.ops.dtypes import at_least_float32

SCALE: dict[str, Param] = {"weight": Param("vector")}
SCALE_AND_SHIFT: dict[str, Param] = {**SCALE, "bias": Param("vector")}


class Affine(nn.Module):
    """A norm over the last axis whose output is scaled by `weight`, or 1 + weight, and shifted by `bias`.

    x: [..., D] -> [..., D] in x's dtype; statistics in at least float32.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, dim: int, *, eps: float, affine: bool, zero_centered: bool, bias: bool = False) -> None:
        super().__init__()
        self.dim, self.eps, self.zero_centered = dim, eps, zero_centered
        self.register_parameter("weight", nn.Parameter(torch.empty(dim)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.empty(dim)) if affine and bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the scale to one and the shift to zero."""
        if self.weight is not None:
            nn.init.constant_(self.weight, 0.0 if self.zero_centered else 1.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @torch.no_grad()
    def shrink_branch(self, factor: float) -> None:
        """Multiply the scale, and with it the output, by a factor at initialization."""
        if self.weight is not None:
            self.weight.add_(float(self.zero_centered)).mul_(factor).sub_(float(self.zero_centered))

    def normalize(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return x normalized, scaled and shifted, all in x's dtype."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Normalize over the last axis."""
        wide = at_least_float32(x)
        scale = None if self.weight is None else self.weight.to(wide.dtype) + float(self.zero_centered)
        shift = None if self.bias is None else self.bias.to(wide.dtype)
        return self.normalize(wide, scale, shift).to(x.dtype)
