from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, choice, register
from archlab.components._init import TokenInit, init_tokens_
from archlab.ops.dtypes import at_least_float32


@register("head", "language_model", search={"tied": choice(False, True)})
class LanguageModelHead(nn.Module):
    """One score per token of the vocabulary, by a matrix of its own or, if `tied`, the embedding's (arXiv:1608.05859).

    x: [B, T, D] -> [B, T, V] in at least float32.
    Raises ValueError where a tied head is given num_outputs other than the vocabulary's size.
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
        init: TokenInit = "truncated",
    ) -> None:
        super().__init__()
        num_outputs = num_outputs or vocab_size
        if num_outputs is None:
            raise ValueError("needs num_outputs, or a model with a vocab_size")
        if tied and num_outputs != vocab_size:
            raise ValueError(f"a tied head has vocab_size {vocab_size} outputs, not num_outputs {num_outputs}")
        self.init, self.num_outputs = init, num_outputs
        self._tied = (embedding,) if tied else ()  # a tuple, so that the matrix has one owner and one name
        self.register_parameter("weight", None if tied else nn.Parameter(torch.empty(num_outputs, dim)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the matrix, unless the embedding owns it."""
        if self.weight is not None:
            init_tokens_(self.weight, self.init)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Compare every x with the vector of every token."""
        return at_least_float32(F.linear(x_BTD, self.matrix))

    @property
    def matrix(self) -> Tensor:
        """The vectors of all tokens [V, D]."""
        owner: Any = self._tied[0] if self._tied else self
        matrix: Tensor = owner.weight
        return matrix
