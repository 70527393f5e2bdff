from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Param, register

from ._base import Branch, Residual


@register("residual", "rezero", params={"share": Param("vector", branch=True)})
class ReZero(Residual):
    """Residual with branches times one learned number, at first 0, y = x + a * branch(x) (arXiv:2003.04887).

    x: [B, T, D] -> [B, T, D].  Both branches of a layer have the same number, and the block begins as the identity.
    The paper has no norms: it is that with norm `none` and ffn_norm `none`.
    """

    def __init__(self, dim: int, layer_index: int) -> None:
        super().__init__(dim, layer_index)
        self.share = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin as the identity."""
        nn.init.zeros_(self.share)

    def added(self, mixer: nn.Module, ffn: nn.Module) -> tuple[nn.Module, ...]:
        """Return itself: its number scales both branches."""
        return (self,)

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Add the scaled branches one after the other."""
        y = x + self._scale(mixer(x))
        return y + self._scale(ffn(y))

    def _scale(self, branch: Tensor) -> Tensor:
        return branch * self.share.to(branch.dtype)
