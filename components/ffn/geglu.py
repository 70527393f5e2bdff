from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from archlab import Fraction, Width, register
from archlab.components._init import Init

from ._gated import PARAMS, SEARCH, GatedMLP


@register("ffn", "geglu", search=SEARCH, params=PARAMS)
class GeGLU(GatedMLP):
    """A linear layer gated by gelu of another, down(gelu(gate x) * up x) (arXiv:2002.05202).

    x: [..., D] -> [..., D].

    Args:
        hidden_dim: Number of hidden features; null for 8/3 D, rounded up to a multiple of 8.
        approximate: Whether gelu is computed by its tanh approximation (arXiv:1606.08415).
        bias: Whether the projections have a bias.
        dropout: Probability of zeroing a hidden feature in training.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden_dim: Width | None = None,
        approximate: bool = True,
        bias: bool = False,
        dropout: Fraction = 0.0,
        init: Init = "he",
    ) -> None:
        super().__init__(dim, hidden_dim=hidden_dim, bias=bias, dropout=dropout, init=init)
        self.approximate = "tanh" if approximate else "none"

    def activate(self, gate: Tensor) -> Tensor:
        """Return gelu(gate)."""
        return F.gelu(gate, approximate=self.approximate)
