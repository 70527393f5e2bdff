from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Fraction, Param, Width, choice, interval, register
from archlab.components._init import TokenInit, init_tokens_, linear


@register(
    "embedding",
    "factored",
    search={"rank": choice(64, 128, 256), "dropout": interval(0.0, 0.3)},
    params={
        "table": Param("input"),
        "projection.weight": Param("hidden", scale={"factor": -1.0}),
        "projection.bias": Param("vector", scale={"factor": -1.0}),
    },
)
class FactoredEmbedding(nn.Module):
    """A learned vector of R features per token, projected to D: V x R + R x D weights for V x D (arXiv:1909.11942).

    tokens: [B, T] int64 -> [B, T, D].
    Raises ValueError where the model has no vocab_size.

    Args:
        rank: Number R of features of a token's own vector.
        scale: Whether the outputs are multiplied by sqrt(D) (arXiv:1706.03762).
        bias: Whether the projection has a bias, as in ALBERT's code.
        init: Distribution of the vectors: N(0, 1/R) `truncated` at three deviations, or `normal`, N(0, 0.02²); the
            projection is uniform (Xavier).
        dropout: Probability of zeroing an embedded feature in training.
    """

    def __init__(
        self,
        vocab_size: int | None,
        dim: int,
        *,
        rank: Width = 128,
        scale: bool = False,
        bias: bool = False,
        init: TokenInit = "truncated",
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        if vocab_size is None:
            raise ValueError("tokens need a vocab_size, the number of different tokens")
        self.rank, self.factor, self.init = rank, dim**0.5 if scale else 1.0, init
        # Not `weight`, which heads tie to as a matrix [V, D].
        self.table = nn.Parameter(torch.empty(vocab_size, rank))
        self.projection = linear(rank, dim, bias=bias, init="xavier")
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors."""
        init_tokens_(self.table, self.init)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Look up the vector of each token, and project it."""
        return self.dropout(self.projection(F.embedding(tokens_BT, self.table)) * self.factor)
