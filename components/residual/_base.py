"""Residual schemes: how a block combines its input and its two branches."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Branch(Protocol):
    """One branch of a block, the mixer's or the ffn's: `branch(h)` is `branch.body(branch.norm(h))`.

    A residual calls `branch(h)`, or the body and the norm separately, each exactly once: a second call would advance
    the state of the sequence twice.
    """

    def norm(self, h: Tensor) -> Tensor:
        """Return h normalized."""

    def body(self, h: Tensor) -> Tensor:
        """Return the layer's own output."""

    def __call__(self, h: Tensor) -> Tensor:
        """Return the layer's output for the normalized h."""


class Residual(nn.Module):
    """A residual scheme: constructed with (dim, layer_index), called with the block's input and its two branches.

    x: [B, T, D] -> [B, T, D].  `needs_ffn` declares that the mixer reaches the output through the ffn alone. One with
    an attribute `num_streams` is called with [B, T, S, D], all S streams from one layer to the next.
    """

    needs_ffn = False

    def __init__(self, dim: int, layer_index: int) -> None:
        super().__init__()

    def added(self, mixer: nn.Module, ffn: nn.Module) -> tuple[nn.Module, ...]:
        """Return the modules whose outputs are added to the block's input, which depth scales under `completep`."""
        return mixer, ffn

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Return the block's output."""
        raise NotImplementedError
