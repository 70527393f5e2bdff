"""What the gated feed-forward layers share."""

from __future__ import annotations

from torch import Tensor, nn

from archlab import Domain, choice, interval
from archlab.components._init import Init, linear

SEARCH: dict[str, Domain] = {"hidden_dim": choice(128, 256, 512, 1024), "dropout": interval(0.0, 0.3)}


class GatedMLP(nn.Module):
    """down(activate(gate x) * up x), 8/3 D wide, rounded up to a multiple of 8, unless said otherwise.

    x: [..., D] -> [..., D].  Dropout falls on the hidden features.
    """

    def __init__(self, dim: int, *, hidden_dim: int | None, bias: bool, dropout: float, init: Init) -> None:
        super().__init__()
        hidden_dim = hidden_dim or 8 * -(-dim // 3)
        self.gate = linear(dim, hidden_dim, bias=bias, init=init)
        self.up = linear(dim, hidden_dim, bias=bias, init=init)
        self.down = linear(hidden_dim, dim, bias=bias, init=init)
        self.dropout = nn.Dropout(dropout)

    def activate(self, gate: Tensor) -> Tensor:
        """Return what the hidden features are multiplied by."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Widen twice, gate one by the other, narrow."""
        return self.down(self.dropout(self.activate(self.gate(x)) * self.up(x)))
