from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Fraction, Param, interval, register
from archlab.components._init import TokenInit, init_tokens_, linear
from archlab.components._vocabulary_bands import split_vocabulary


@register(
    "embedding",
    "adaptive",
    search={"dropout": interval(0.0, 0.3)},
    params={
        "tables.*.projection.weight": Param("hidden", scale={"multiplier": -1.0}),
        "tables.*.weight": Param("input"),
    },
)
class AdaptiveEmbedding(nn.Module):
    """Vectors that are the shorter the rarer a token is, each band's projected to D (arXiv:1809.10853).

    tokens: [B, T] int64, by falling frequency -> [B, T, D].
    Raises ValueError where the model has no vocab_size, where cutoffs do not rise within it, and where a band would
    have no feature.

    Args:
        cutoffs: First tokens of all bands but the first, such as 20,000 and 60,000 for WikiText-103.
        factor: How many times as narrow as the one before each band is, the first having D features.
        scale: Whether the outputs are multiplied by sqrt(D) (arXiv:1706.03762).
        init: Distribution of the vectors of R features: N(0, 1/R) `truncated` at three deviations, or `normal`,
            N(0, 0.02²); projections are uniform (Xavier).
        dropout: Probability of zeroing an embedded feature in training.
    """

    def __init__(
        self,
        vocab_size: int | None,
        dim: int,
        *,
        cutoffs: list[Count],
        factor: Count = 4,
        scale: bool = False,
        init: TokenInit = "truncated",
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        if vocab_size is None:
            raise ValueError("tokens need a vocab_size, the number of different tokens")
        self.bands = split_vocabulary(vocab_size, dim, cutoffs, factor)
        self.cutoffs, self.factor, self.multiplier = cutoffs, factor, dim**0.5 if scale else 1.0
        self.tables = nn.ModuleList(Table(band.size, band.width, dim, init) for band in self.bands)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Look up the vector of each token in its band, and project it."""
        # Every band for every token, with zeros for others' tokens: shapes then do not depend on the tokens.
        parts = []
        for band, table in zip(self.bands, self.tables, strict=True):
            index_BT = tokens_BT - band.first
            inside_BT = (index_BT >= 0) & (index_BT < band.size)
            parts.append(table(torch.where(inside_BT, index_BT, 0)) * inside_BT[..., None])
        return self.dropout(torch.stack(parts).sum(0) * self.multiplier)


class Table(nn.Module):
    """A vector of R features per token of a band, and the projection to D."""

    def __init__(self, size: int, width: int, dim: int, init: TokenInit) -> None:
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(size, width))
        self.projection = linear(width, dim, bias=False, init="xavier")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors."""
        init_tokens_(self.weight, self.init)

    def forward(self, index_BT: Tensor) -> Tensor:
        """Return the projected vectors."""
        return self.projection(F.embedding(index_BT, self.weight))
