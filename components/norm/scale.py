from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Param, Positive, register
from archlab.ops.dtypes import at_least_float32


@register("norm", "scale", params={"length": Param("vector", scale={"dim": 0.5})})
class ScaleNorm(nn.Module):
    """Scale normalization of every vector to one learned length g, g x / |x|, initially sqrt(D) (arXiv:1910.05895).

    x: [..., D] -> [..., D].

    Args:
        eps: Smallest length that a vector is divided by.
    """

    def __init__(self, dim: int, *, eps: Positive = 1e-5) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.length = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize to the length of a vector of unit variance."""
        nn.init.constant_(self.length, self.dim**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Scale every vector to the learned length."""
        wide = at_least_float32(x)
        inverse = wide.norm(dim=-1, keepdim=True).clamp_min(self.eps).reciprocal()
        return (wide * (self.length.to(wide.dtype) * inverse)).to(x.dtype)
