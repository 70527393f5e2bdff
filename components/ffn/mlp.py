from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Fraction, Param, Width, choice, interval, register
from archlab.components._init import Init, linear

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


@register(
    "ffn",
    "mlp",
    search={
        "hidden_dim": choice(128, 256, 512, 1024),
        "activation": choice("silu", "gelu", "relu", "relu2"),
        "dropout": interval(0.0, 0.3),
    },
    params={
        "up.weight": Param("hidden", tensor="column"),
        "up.bias": Param("vector", tensor="column"),
        "down.weight": Param("hidden", tensor="row", branch=True),
        "down.bias": Param("vector", branch=True),
    },
)
class MLP(nn.Module):
    """Two linear layers with an activation between them (arXiv:1706.03762).

    x: [..., D] -> [..., D].

    Args:
        hidden_dim: Number of hidden features; null for 4 D.
        activation: Function of the hidden features; relu2 is relu squared (arXiv:2109.08668).
        bias: Whether the linear layers have a bias.
        dropout: Probability of zeroing a hidden feature in training.
        init: Distribution of the linear layers' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden_dim: Width | None = None,
        activation: Literal["silu", "gelu", "relu", "relu2"] = "silu",
        bias: bool = False,
        dropout: Fraction = 0.0,
        init: Init = "he",
    ) -> None:
        super().__init__()
        hidden_dim = hidden_dim or 4 * dim
        self.activation = _ACTIVATIONS[activation]
        self.up = linear(dim, hidden_dim, bias=bias, init=init)
        self.down = linear(hidden_dim, dim, bias=bias, init=init)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Project up, activate, project down."""
        return self.down(self.dropout(self.activation(self.up(x))))
