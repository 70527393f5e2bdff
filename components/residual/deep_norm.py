from __future__ import annotations

from torch import Tensor

from archlab import Count, register

from ._base import Branch, Residual


@register("residual", "deep_norm")
class DeepNorm(Residual):
    """Post-norm residual with a larger input than branch, y = norm(a x + b² body(x)), of DeepNet (arXiv:2203.00555).

    x: [B, T, D] -> [B, T, D].  a = (2 N)^(1/4) and b = (8 N)^(-1/4) in a decoder of N layers.
    Deviations: the paper begins with values, outputs and ffn matrices b times as large, two of them in each branch;
    here b² is a factor of the branch, whatever matrices it has.

    Args:
        num_layers: Number N of layers of the model.
    """

    def __init__(self, dim: int, layer_index: int, *, num_layers: Count = 12) -> None:
        super().__init__(dim, layer_index)
        self.input_factor = (2 * num_layers) ** 0.25
        self.branch_factor = (8 * num_layers) ** -0.5

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Add and normalize, branch by branch."""
        y = mixer.norm(self.input_factor * x + self.branch_factor * mixer.body(x))
        return ffn.norm(self.input_factor * y + self.branch_factor * ffn.body(y))
