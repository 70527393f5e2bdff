from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from archlab import Fraction, Positive, Width, register
from archlab.components._factor import times
from archlab.components._init import Init

from ._gated import PARAMS, SEARCH, GatedMLP


@register("ffn", "swiglu", search=SEARCH, params=PARAMS)
class SwiGLU(GatedMLP):
    """A linear layer gated by silu of another, down(silu(gate x) * up x) (arXiv:2002.05202).

    x: [..., D] -> [..., D].

    Args:
        hidden_dim: Number of hidden features; null for 8/3 D, rounded up to a multiple of 8.
        bias: Whether the projections have a bias.
        dropout: Probability of zeroing a hidden feature in training.
        gate_factor: Factor of the projection inside silu (Falcon-H1, arXiv:2507.22448).
        output_factor: Factor of the output.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden_dim: Width | None = None,
        bias: bool = False,
        dropout: Fraction = 0.0,
        gate_factor: Positive = 1.0,
        output_factor: Positive = 1.0,
        init: Init = "he",
    ) -> None:
        super().__init__(dim, hidden_dim=hidden_dim, bias=bias, dropout=dropout, init=init)
        self.gate_factor, self.output_factor = gate_factor, output_factor

    def activate(self, gate: Tensor) -> Tensor:
        """Return silu(gate)."""
        return F.silu(times(self.gate_factor, gate))

    def forward(self, x: Tensor) -> Tensor:
        """Project up twice, gate one by the other, project down."""
        return times(self.output_factor, super().forward(x))
