from __future__ import annotations

from torch import Tensor

from archlab import Positive, register

from ._base import Branch, Residual


@register("residual", "normed_skip")
class NormedSkip(Residual):
    """Residual whose skip is normalized too, y = a h + b body(h) with h = norm(x), of MiniMax-01 (arXiv:2501.08313).

    x: [B, T, D] -> [B, T, D].  Seen from the branches it is post-norm: each begins at the norm of the sum before it, as
    in DeepNet, whose a is (2 N)^(1/4) for N layers.

    Args:
        input_factor: Factor a of the normalized input.
        branch_factor: Factor b of each branch.
    """

    def __init__(
        self, dim: int, layer_index: int, *, input_factor: Positive = 1.0, branch_factor: Positive = 1.0
    ) -> None:
        super().__init__(dim, layer_index)
        self.input_factor, self.branch_factor = input_factor, branch_factor

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Normalize and add, branch by branch."""
        for branch in (mixer, ffn):
            h = branch.norm(x)
            x = self.input_factor * h + self.branch_factor * branch.body(h)
        return x
