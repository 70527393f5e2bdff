from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Fraction, Param, Positive, interval, register
from archlab.components._init import TokenInit, init_tokens_


@register(
    "embedding",
    "tokens",
    search={"dropout": interval(0.0, 0.3)},
    params={"weight": Param("input", tensor="vocab", scale={"factor": -1.0})},
)
class TokenEmbedding(nn.Module):
    """A learned vector per token.

    tokens: [B, T] int64 -> [B, T, D].
    Raises ValueError where the model has no vocab_size, and for a factor beside `scale`.

    Args:
        scale: Whether the vectors are multiplied by sqrt(D) (arXiv:1706.03762).
        factor: Another number that the vectors are multiplied by; null for none.
        init: Distribution of the vectors: N(0, 1/D) `truncated` at three deviations, or `normal`, N(0, 0.02²).
        dropout: Probability of zeroing an embedded feature in training.
    """

    def __init__(
        self,
        vocab_size: int | None,
        dim: int,
        *,
        scale: bool = False,
        factor: Positive | None = None,
        init: TokenInit = "truncated",
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        if vocab_size is None:
            raise ValueError("tokens need a vocab_size, the number of different tokens")
        if scale and factor is not None:
            raise ValueError(f"scale multiplies by sqrt(dim), and factor by {factor}: leave one out")
        self.factor, self.init = dim**0.5 if scale else factor or 1.0, init
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors."""
        init_tokens_(self.weight, self.init)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Look up the vector of each token."""
        return self.dropout(F.embedding(tokens_BT, self.weight) * self.factor)
