"""A model whose outputs can be computed by hand."""

import torch
from torch import Tensor, nn


class Bigram(nn.Module):
    """A bigram model; its state counts the tokens that it has read.

    tokens: [B, T] -> logits [B, T, V]; row `t` of `table` are the logits after token t.
    """

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)
        self.dropout = nn.Dropout(0.9)
        self.calls: list[int] = []

    def forward(self, tokens: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls.append(tokens.shape[1])
        read = state["read"] if state else torch.zeros(len(tokens), dtype=torch.int64)
        return self.dropout(self.table[tokens]), {"read": read + tokens.shape[1]}
