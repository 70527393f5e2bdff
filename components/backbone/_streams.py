"""Residual streams of layers: a layer that has several declares `num_streams`, and its features are [B, T, S, D]."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


def count_streams(blocks: Iterable[nn.Module]) -> int | None:
    """Return the number of streams of layers, None without any; raise ValueError where they differ."""
    numbers = {getattr(block, "num_streams", None) for block in blocks}
    if len(numbers) > 1:
        several = " and of ".join(sorted("one input" if number is None else f"{number} streams" for number in numbers))
        raise ValueError(f"layers of {several} do not follow each other: their residuals differ in num_streams")
    return next(iter(numbers), None)


def open_streams(x_BTD: Tensor, num_streams: int | None) -> Tensor:
    """Return the input of the first layer: all streams begin alike."""
    return x_BTD if num_streams is None else x_BTD[..., None, :].expand(*x_BTD.shape[:-1], num_streams, -1)


def close_streams(x: Tensor, num_streams: int | None) -> Tensor:
    """Return the sum of the streams after the last layer."""
    return x if num_streams is None else x.sum(-2)
