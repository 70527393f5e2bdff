"""Layers one after the other, some of them several times, and the values that the first gives to the others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def order_layers(num_layers: int, *, loops: int, prelude: int, coda: int) -> list[tuple[int, int]]:
    """Return the layers to run, each with the number of its earlier calls.

    Raises ValueError where no layer is left between prelude and coda.
    """
    if prelude + coda and prelude + coda >= num_layers:
        raise ValueError(f"no layer is left to loop: prelude {prelude} and coda {coda} are all of {num_layers} layers")
    first, end = prelude, num_layers - coda
    looped = [(index, loop) for loop in range(loops) for index in range(first, end)]
    return [*((index, 0) for index in range(first)), *looped, *((index, 0) for index in range(end, num_layers))]


def run_layers(scope: StateScope, blocks: Sequence[nn.Module], x: Tensor, order: Iterable[tuple[int, int]]) -> Tensor:
    """Run layers in an order, those that receive the first one's values with these."""
    values: dict[str, Tensor] = {}
    for index, _ in order:
        block = blocks[index]
        x = scope(f"blocks.{index}", block, x, **({} if _value_residual(block) is None else values))
        if isinstance(x, tuple):
            x, given_BTV = x
            values.setdefault("first_values_BTV", given_BTV)  # of the first layer's first call
    return x


def _value_residual(block: nn.Module) -> Any:
    return getattr(block, "value_residual", None)
