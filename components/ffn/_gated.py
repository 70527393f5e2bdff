"""The gated feed-forward layer (arXiv:2002.05202), which its activations specialize."""

from __future__ import annotations

from torch import Tensor, nn

from archlab import Domain, Param, choice, interval
from archlab.components._init import Init, linear

SEARCH: dict[str, Domain] = {"hidden_dim": choice(128, 256, 512, 1024), "dropout": interval(0.0, 0.3)}
PARAMS: dict[str, Param] = {
    "gate.weight": Param("hidden", tensor="column"),
    "gate.bias": Param("vector", tensor="column"),
    "up.weight": Param("hidden", tensor="column"),
    "up.bias": Param("vector", tensor="column"),
    "down.weight": Param("hidden", tensor="row", branch=True),
    "down.bias": Param("vector", branch=True),
}


class GatedMLP(nn.Module):
    """down(activate(gate x) * up x), with 8/3 D hidden features, rounded up to a multiple of 8, by default.

    x: [..., D] -> [..., D].
    """

    def __init__(self, dim: int, *, hidden_dim: int | None, bias: bool, dropout: float, init: Init) -> None:
        super().__init__()
        hidden_dim = hidden_dim or 8 * -(-dim // 3)  # three matrices have the parameters of an MLP's two at 4 D
        self.gate = linear(dim, hidden_dim, bias=bias, init=init)
        self.up = linear(dim, hidden_dim, bias=bias, init=init)
        self.down = linear(hidden_dim, dim, bias=bias, init=init)
        self.dropout = nn.Dropout(dropout)

    def activate(self, gate: Tensor) -> Tensor:
        """Return the factor of the hidden features."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Project up twice, gate one by the other, project down."""
        return self.down(self.dropout(self.activate(self.gate(x)) * self.up(x)))
