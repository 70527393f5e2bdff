from __future__ import annotations

from torch import Tensor

from archlab import register

from ._base import Branch, Residual


@register("residual", "pre_norm")
class PreNorm(Residual):
    """Pre-norm residual of branches with a normalized input, y = x + mixer(x), then y + ffn(y) (arXiv:2002.04745).

    x: [B, T, D] -> [B, T, D].
    """

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Add the branches one after the other."""
        y = x + mixer(x)
        return y + ffn(y)
