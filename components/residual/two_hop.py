from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Param, choice, register

from ._base import Branch, Residual


@register(
    "residual",
    "two_hop",
    search={"rescale": choice(False, True)},
    params={"scale": Param("vector", branch=True)},
)
class TwoHop(Residual):
    """Two-hop residual, x + ffn(x + mixer(x)) for the block's input x, Megalodon section 3.4 (arXiv:2404.08801).

    x: [B, T, D] -> [B, T, D].

    Args:
        rescale: Whether the ffn is multiplied by a learned vector, initially 0.1 * 0.5^layer_index.
    """

    needs_ffn = True
    scale: nn.Parameter | None

    def __init__(self, dim: int, layer_index: int, *, rescale: bool = False) -> None:
        super().__init__(dim, layer_index)
        # Where it is not used the start is the same in every layer, so that identical layers compare as such.
        self.initial_scale = 0.1 * 0.5**layer_index if rescale else 0.0
        self.register_parameter("scale", nn.Parameter(torch.empty(dim)) if rescale else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the scale, smaller in deeper layers."""
        if self.scale is not None:
            nn.init.constant_(self.scale, self.initial_scale)

    def added(self, mixer: nn.Module, ffn: nn.Module) -> tuple[nn.Module, ...]:
        """Return the ffn, through which alone the mixer reaches the output, or the scale after it."""
        return (ffn if self.scale is None else self,)

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Add the ffn to the block's input."""
        branch = ffn(x + mixer(x))
        return x + (branch if self.scale is None else branch * self.scale.to(branch.dtype))
