"""Functions of a token that a matrix of small rank makes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class LowRank(nn.Module):
    """up(activation(down x)), plus a bias if there is one: a change learned from none at first.

    x: [..., D] -> [..., num_outputs].
    """

    def __init__(
        self, dim: int, rank: int, num_outputs: int, *, activation: Callable[[Tensor], Tensor], bias: bool = True
    ) -> None:
        super().__init__()
        self.activation = activation
        self.down = nn.Linear(dim, rank, bias=False)
        self.up = nn.Linear(rank, num_outputs, bias=bias)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin without a change, the bias for its owner to set."""
        nn.init.zeros_(self.down.weight)
        nn.init.uniform_(self.up.weight, -0.01, 0.01)
        if self.up.bias is not None:
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Narrow, activate, widen."""
        return self.up(self.activation(self.down(x)))
