from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Param, Positive, choice, register
from archlab.components._init import TokenInit, init_tokens_
from archlab.ops.dtypes import at_least_float32


@register(
    "head", "language_model", search={"tied": choice(False, True)}, params={"weight": Param("output", tensor="vocab")}
)
class LanguageModelHead(nn.Module):
    """Logits of every token of the vocabulary, from a weight of its own or the embedding's (arXiv:1608.05859).

    x: [B, T, D] -> [B, T, V] in at least float32.
    Raises ValueError where a tied head has num_outputs other than the vocabulary's size, or the embedding no weight
    [V, D].

    Args:
        tied: Whether the weight is that of the embedding.
        num_outputs: Number of logits; null for vocab_size.
        soft_cap: Bound c of the logits, each of which becomes c * tanh(logit / c) (arXiv:2408.00118); null for none.
        init: Distribution of the weight: N(0, 1/D) `truncated` at three deviations, or `normal`, N(0, 0.02²).
    """

    per_sample = False
    weight: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        vocab_size: int | None,
        embedding: nn.Module,
        *,
        tied: bool = False,
        num_outputs: Count | None = None,
        soft_cap: Positive | None = None,
        init: TokenInit = "truncated",
    ) -> None:
        super().__init__()
        num_outputs = num_outputs or vocab_size
        if num_outputs is None:
            raise ValueError("needs num_outputs, or a model with a vocab_size")
        if tied and num_outputs != vocab_size:
            raise ValueError(f"a tied head has vocab_size {vocab_size} outputs, not num_outputs {num_outputs}")
        if tied and not hasattr(embedding, "weight"):
            raise ValueError(f"a tied head has the embedding's weight [V, D], which {type(embedding).__name__} lacks")
        self.init, self.num_outputs, self.soft_cap = init, num_outputs, soft_cap
        self._tied = (embedding,) if tied else ()  # a tuple hides the embedding, whose weight must have one name
        self.register_parameter("weight", None if tied else nn.Parameter(torch.empty(num_outputs, dim)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight, unless the embedding owns it."""
        if self.weight is not None:
            init_tokens_(self.weight, self.init)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Project every x to the vocabulary."""
        logits_BTV = at_least_float32(F.linear(x_BTD, self.matrix))
        return logits_BTV if self.soft_cap is None else self.soft_cap * (logits_BTV / self.soft_cap).tanh()

    @property
    def matrix(self) -> Tensor:
        """The output weight [V, D], from which a loss may compute its logits in chunks."""
        owner: Any = self._tied[0] if self._tied else self
        matrix: Tensor = owner.weight
        return matrix
