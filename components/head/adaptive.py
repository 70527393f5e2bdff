from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Fraction, Param, choice, interval, register
from archlab.components._init import TokenInit, init_tokens_, linear
from archlab.components._vocabulary_bands import Band, split_vocabulary
from archlab.components.embedding.adaptive import AdaptiveEmbedding
from archlab.ops.dtypes import at_least_float32
from archlab.ops.linear_cross_entropy import IGNORED


@register(
    "head",
    "adaptive",
    search={"tied": choice(False, True), "dropout": interval(0.0, 0.3)},
    params={"tails.*.projection.weight": Param("hidden"), "*weight": Param("output"), "clusters": Param("output")},
)
class AdaptiveHead(nn.Module):
    """The adaptive softmax: log-probabilities of frequent tokens and of bands of rarer ones, and within these bands.

    Of arXiv:1609.04309, with bands the narrower the rarer their tokens are, and tied as in arXiv:1809.10853.
    x: [B, T, D] -> log-probabilities [B, T, V] in at least float32; tokens by falling frequency.
    Raises ValueError where the model has no vocab_size, where cutoffs do not rise within it or are missing, and for a
    tied head where the embedding is not `adaptive` with the same bands.
    Deviations: the loss computes each band for every token, so that no shape depends on the targets. Its products, of
    D / factor features and less, cost about as much as those of the frequent tokens.

    Args:
        cutoffs: First tokens of all bands but the first; null for those of an adaptive embedding.
        factor: How many times as narrow as the one before each band is, the first having D features; null for that of
            the embedding whose cutoffs they are, or for 4.
        tied: Whether the matrices of all bands are those of the embedding.
        tied_projections: Whether the projections to the narrow bands are, transposed, those of the embedding too; the
            first band, of D features, has none.
        init: Distribution of the matrices: N(0, 1/R) `truncated` at three deviations, or `normal`, N(0, 0.02²), for R
            features; projections are uniform (Xavier).
        dropout: Probability of zeroing a feature before each product in training.
    """

    per_sample = False
    weight: nn.Parameter | None
    clusters: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        vocab_size: int | None,
        embedding: nn.Module,
        *,
        cutoffs: list[Count] | None = None,
        factor: Count | None = None,
        tied: bool = False,
        tied_projections: bool = False,
        init: TokenInit = "truncated",
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        known = embedding if isinstance(embedding, AdaptiveEmbedding) else None
        if cutoffs is None and known is not None:
            cutoffs, factor = known.cutoffs, factor or known.factor
        if vocab_size is None or cutoffs is None:
            raise ValueError("needs cutoffs, or those of an adaptive embedding, and a model with a vocab_size")
        self.bands = split_vocabulary(vocab_size, dim, cutoffs, factor or 4)
        if tied and (known is None or known.bands != self.bands):
            raise ValueError(f"a tied head needs an adaptive embedding with cutoffs {cutoffs} and its factor")
        if tied_projections and not tied:
            raise ValueError("tied_projections are those of an embedding: set tied as well")
        self.num_outputs, self.init, self.tied_projections = vocab_size, init, tied_projections
        # A tuple hides the embedding, whose parameters must have one name.
        self._tied: tuple[AdaptiveEmbedding, ...] = (known,) if tied and known is not None else ()
        first, *rest = self.bands
        own = None if tied else nn.Parameter(torch.empty(first.size, dim))
        self.register_parameter("weight", own)
        self.register_parameter("clusters", nn.Parameter(torch.empty(len(rest), dim)) if rest else None)
        self.tails = nn.ModuleList(
            Tail(dim, band, init, has_weight=not tied, has_projection=not tied_projections) for band in rest
        )
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors of the frequent tokens and of the bands."""
        for parameter in (self.weight, self.clusters):
            if parameter is not None:
                init_tokens_(parameter, self.init)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return log-probabilities of frequent tokens, and those of a band times those within it."""
        x_BTD, first = self.dropout(x_BTD), self.bands[0].size
        joint = at_least_float32(F.linear(x_BTD, self._first_matrix())).log_softmax(-1)
        parts = [joint[..., :first]]
        for index, matrix in enumerate(self.matrices[1:]):
            within = at_least_float32(F.linear(self._project(index, x_BTD), matrix)).log_softmax(-1)
            parts.append(joint[..., first + index, None] + within)
        return torch.cat(parts, -1)

    def loss_terms(self, x_ND: Tensor, target_N: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return features, matrices and targets of the linear cross-entropies whose sum is the loss."""
        x_ND, joint_N, terms = self.dropout(x_ND), target_N, []
        for index, (band, matrix) in enumerate(zip(self.bands[1:], self.matrices[1:], strict=True)):
            inside_N = (target_N >= band.first) & (target_N < band.first + band.size)
            joint_N = torch.where(inside_N, self.bands[0].size + index, joint_N)
            own_N = torch.where(inside_N, target_N - band.first, IGNORED)
            terms.append((self._project(index, x_ND), matrix, own_N))
        return [(x_ND, self._first_matrix(), joint_N), *terms]

    @property
    def matrices(self) -> list[Tensor]:
        """The vectors of the tokens of each band [size, width]."""
        owners: Iterable[Any] = self._tied[0].tables if self._tied else (self, *self.tails)
        return [owner.weight for owner in owners]

    def _first_matrix(self) -> Tensor:
        """Return the vectors of the frequent tokens, and one for each band of others."""
        first = self.matrices[0]
        return first if self.clusters is None else torch.cat((first, self.clusters))

    def _project(self, index: int, x: Tensor) -> Tensor:
        """Return the narrow features of a band of rare tokens."""
        if self.tied_projections:
            table: Any = self._tied[0].tables[index + 1]
            return self.dropout(F.linear(x, table.projection.weight.mT))
        tail: Any = self.tails[index]
        return self.dropout(tail.projection(x))


class Tail(nn.Module):
    """A band's vectors and the projection to its features, except tied ones."""

    weight: nn.Parameter | None
    projection: nn.Module | None

    def __init__(self, dim: int, band: Band, init: TokenInit, *, has_weight: bool, has_projection: bool) -> None:
        super().__init__()
        self.init = init
        self.projection = linear(dim, band.width, bias=False, init="xavier") if has_projection else None
        own = nn.Parameter(torch.empty(band.size, band.width)) if has_weight else None
        self.register_parameter("weight", own)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors, unless the embedding owns them."""
        if self.weight is not None:
            init_tokens_(self.weight, self.init)
