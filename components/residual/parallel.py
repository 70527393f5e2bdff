from __future__ import annotations

from torch import Tensor

from archlab import register

from ._base import Branch, Residual


@register("residual", "parallel")
class Parallel(Residual):
    """Parallel branches of the block's input, x + mixer(x) + ffn(x), as in PaLM (arXiv:2204.02311).

    x: [B, T, D] -> [B, T, D].
    """

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Add both branches at once."""
        return x + mixer(x) + ffn(x)
