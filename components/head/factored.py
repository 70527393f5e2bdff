from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Param, Width, choice, register
from archlab.components._init import TokenInit, init_tokens_, linear
from archlab.components.embedding.factored import FactoredEmbedding
from archlab.ops.dtypes import at_least_float32


@register(
    "head",
    "factored",
    search={"rank": choice(64, 128, 256), "tied": choice(False, True)},
    params={"projection.weight": Param("hidden"), "table": Param("output")},
)
class FactoredHead(nn.Module):
    """Logits of the vocabulary from R features, to which D are projected (arXiv:1909.11942).

    x: [B, T, D] -> [B, T, V] in at least float32.
    Raises ValueError where the model has no vocab_size, and for a tied head where the embedding is not `factored`, or
    has another rank.

    Args:
        rank: Number R of features.
        tied: Whether the matrix V x R is that of the embedding; the projection is the head's own.
        init: Distribution of the matrix: N(0, 1/R) `truncated` at three deviations, or `normal`, N(0, 0.02²); the
            projection is uniform (Xavier).
    """

    per_sample = False
    table: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        vocab_size: int | None,
        embedding: nn.Module,
        *,
        rank: Width = 128,
        tied: bool = False,
        init: TokenInit = "truncated",
    ) -> None:
        super().__init__()
        if vocab_size is None:
            raise ValueError("needs a model with a vocab_size")
        if tied and not (isinstance(embedding, FactoredEmbedding) and embedding.rank == rank):
            raise ValueError(f"a tied head needs the embedding factored, of rank {rank}")
        self.num_outputs, self.init = vocab_size, init
        self._tied = (embedding,) if tied else ()  # a tuple hides the embedding, whose table must have one name
        self.projection = linear(dim, rank, bias=False, init="xavier")
        self.register_parameter("table", None if tied else nn.Parameter(torch.empty(vocab_size, rank)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the matrix, unless the embedding owns it."""
        if self.table is not None:
            init_tokens_(self.table, self.init)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Project every x to R features, and these to the vocabulary."""
        return at_least_float32(F.linear(self.projection(x_BTD), *self.matrices))

    def loss_terms(self, x_ND: Tensor, target_N: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the features, the matrix and the targets of a linear cross-entropy, which is the loss."""
        return [(self.projection(x_ND), *self.matrices, target_N)]

    @property
    def matrices(self) -> list[Tensor]:
        """The matrix [V, R]."""
        owner: Any = self._tied[0] if self._tied else self
        return [owner.table]
