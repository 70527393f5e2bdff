from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Param, Positive, choice, register

from ._base import Branch, Residual


@register(
    "residual",
    "layer_scale",
    search={"start": choice(1e-4, 0.01, 0.1, 1.0)},
    params={"*_scale": Param("vector", branch=True)},
)
class LayerScale(Residual):
    """Pre-norm residual whose branches are multiplied by learned vectors, y = x + s * branch(x) (arXiv:2103.17239).

    x: [B, T, D] -> [B, T, D].

    Args:
        start: Initial value of the vectors; the paper has 0.1 in 18 layers, 1e-5 in 24 and 1e-6 in more.
    """

    def __init__(self, dim: int, layer_index: int, *, start: Positive = 0.1) -> None:
        super().__init__(dim, layer_index)
        self.start = start
        self.mixer_scale = nn.Parameter(torch.empty(dim))
        self.ffn_scale = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin with small branches."""
        for scale in (self.mixer_scale, self.ffn_scale):
            nn.init.constant_(scale, self.start)

    def added(self, mixer: nn.Module, ffn: nn.Module) -> tuple[nn.Module, ...]:
        """Return itself: its vectors scale both branches."""
        return (self,)

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Add the scaled branches one after the other."""
        branch = mixer(x)
        y = x + branch * self.mixer_scale.to(branch.dtype)
        branch = ffn(y)
        return y + branch * self.ffn_scale.to(branch.dtype)
