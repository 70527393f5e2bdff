from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from archlab import Count, Param, Positive, TensorPlan, choice, register

from ._affine import Affine


@register(
    "norm",
    "group",
    search={"num_groups": choice(1, 2, 4, 8, 16)},
    params={"weight": Param("vector", tensor="column"), "bias": Param("vector", tensor="column")},
    tensor=TensorPlan(counts=("num_groups",)),
)
class GroupNorm(Affine):
    """Group normalization over contiguous groups of channels (arXiv:1803.08494).

    x: [..., D] -> [..., D].  Raises ValueError where num_groups does not divide D, or is D.
    Deviations: the statistics are those of one timestep, so that no step depends on a later one.

    Args:
        num_groups: Number of groups of contiguous channels, each normalized by its own statistics.
        eps: Constant added to the variance.
        affine: Whether the output has a learned scale and shift.
        zero_centered: Whether the scale is 1 + weight, so that weight decay pulls it to 1, instead of the weight.
        bias: Whether an affine norm has a shift.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_groups: Count = 8,
        eps: Positive = 1e-5,
        affine: bool = True,
        zero_centered: bool = True,
        bias: bool = True,
    ) -> None:
        if dim % num_groups:
            raise ValueError(f"dim {dim} is not divisible by num_groups {num_groups}")
        if dim == num_groups:  # and dim 1: one number less its own mean is 0
            raise ValueError(
                f"each of {num_groups} groups, or heads of a mixer, has one channel: no output would depend on x"
            )
        super().__init__(dim, eps=eps, affine=affine, zero_centered=zero_centered, bias=bias)
        self.num_groups = num_groups

    def normalize(self, x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        """Normalize each group by its own mean and biased variance, then scale and shift."""
        groups = x.unflatten(-1, (self.num_groups, -1))
        y = F.layer_norm(groups, groups.shape[-1:], eps=self.eps).flatten(-2)
        y = y if scale is None else y * scale
        return y if shift is None else y + shift
