from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from archlab import Positive, register

from ._affine import SCALE, Affine


@register("norm", "rms", params=SCALE)
class RMSNorm(Affine):
    """Root mean square normalization, x / rms(x), without a mean (arXiv:1910.07467).

    x: [..., D] -> [..., D].

    Args:
        eps: Constant added to the mean square.
        affine: Whether the output has a learned scale.
        zero_centered: Whether the scale is 1 + weight, so that weight decay pulls it to 1, instead of the weight.
    """

    def __init__(self, dim: int, *, eps: Positive = 1e-5, affine: bool = True, zero_centered: bool = True) -> None:
        super().__init__(dim, eps=eps, affine=affine, zero_centered=zero_centered)

    def normalize(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return x / sqrt(mean(x²) + eps), scaled."""
        return F.rms_norm(x, (self.dim,), scale, self.eps)
