"""Low-rank functions of a token, as in LoRA."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class LowRank(nn.Module):
    """Low-rank projection with an optional bias, up(activation(down x)), initialized to a constant.

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
        """Zero the down-projection, so that the output is the same for all tokens; the owner may set its bias."""
        nn.init.zeros_(self.down.weight)
        nn.init.uniform_(self.up.weight, -0.01, 0.01)
        if self.up.bias is not None:
            nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Project down, activate, project up."""
        return self.up(self.activation(self.down(x)))
