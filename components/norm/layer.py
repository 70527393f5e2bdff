from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from archlab import Positive, register

from ._affine import SCALE_AND_SHIFT, Affine


@register("norm", "layer", params=SCALE_AND_SHIFT)
class LayerNorm(Affine):
    """Layer normalization, by the mean and biased variance of each vector (arXiv:1607.06450).

    x: [..., D] -> [..., D].

    Args:
        eps: Constant added to the variance.
        affine: Whether the output has a learned scale and shift.
        zero_centered: Whether the scale is 1 + weight, so that weight decay pulls it to 1, instead of the weight.
        bias: Whether an affine norm has a shift.
    """

    def __init__(
        self, dim: int, *, eps: Positive = 1e-5, affine: bool = True, zero_centered: bool = True, bias: bool = True
    ) -> None:
        super().__init__(dim, eps=eps, affine=affine, zero_centered=zero_centered, bias=bias)

    def normalize(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return (x - mean) / sqrt(variance + eps), scaled and shifted."""
        return F.layer_norm(x, (self.dim,), scale, shift, self.eps)
