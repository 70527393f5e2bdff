from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from archlab import Count, Fraction, register
from archlab.components._init import Init

from ._gated import SEARCH, GatedMLP


@register("ffn", "geglu", search=SEARCH)
class GeGLU(GatedMLP):
    """A linear layer gated by gelu of another, down(gelu(gate x) * up x) (arXiv:2002.05202).

    x: [..., D] -> [..., D].  `approximate` takes gelu's tanh form (arXiv:1606.08415).
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden_dim: Count | None = None,
        approximate: bool = True,
        bias: bool = False,
        dropout: Fraction = 0.0,
        init: Init = "he",
    ) -> None:
        super().__init__(dim, hidden_dim=hidden_dim, bias=bias, dropout=dropout, init=init)
        self.form = "tanh" if approximate else "none"

    def activate(self, gate: Tensor) -> Tensor:
        """Return gelu(gate)."""
        return F.gelu(gate, approximate=self.form)
