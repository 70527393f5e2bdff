from __future__ import annotations

from torch import Tensor

from archlab import register

from ._base import Branch, Residual


@register("residual", "post_norm")
class PostNorm(Residual):
    """Post-norm residual, y = norm(x + mixer(x)), then norm(y + ffn(y)) (arXiv:1706.03762).

    x: [B, T, D] -> [B, T, D].
    """

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Add and normalize, branch by branch."""
        y = mixer.norm(x + mixer.body(x))
        return ffn.norm(y + ffn.body(y))
