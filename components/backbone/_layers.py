"""Layers one after the other, and the values that the first with a value residual gives to the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from archlab import StateScope


def connect_values(blocks: Iterable[nn.Module]) -> None:
    """Have the first of the layers with a `value_residual` give its values, and the others receive them.

    Raises ValueError where their values differ in width.
    """
    residuals = [residual for block in blocks if (residual := _value_residual(block)) is not None]
    widths = sorted({residual.width for residual in residuals})
    if len(widths) > 1:
        several = " and of ".join(f"{width} features" for width in widths)
        raise ValueError(f"values of {several} cannot be mixed: layers with a value_residual differ in their widths")
    if len(residuals) > 1:
        residuals[0].give()
        for residual in residuals[1:]:
            residual.receive()


def run_layers(scope: StateScope, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Run layers one after the other, those that receive the first one's values with these."""
    values: dict[str, Tensor] = {}
    for index, block in enumerate(blocks):
        x = scope(f"blocks.{index}", block, x, **({} if _value_residual(block) is None else values))
        if isinstance(x, tuple):
            x, values["first_values_BTV"] = x
    return x


def _value_residual(block: nn.Module) -> Any:
    return getattr(block, "value_residual", None)
