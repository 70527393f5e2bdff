"""Layers one after the other, some of them several times, and values that earlier ones share with later ones.

These are the values of the first layer with a value residual, and the keys and values of layers that others share.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from archlab import StateScope


def connect_layers(blocks: nn.ModuleList) -> list[int | None]:
    """Have layers give values, keys and values to later ones; return whose keys and values each layer takes, if any.

    Raises ValueError where values that are to be mixed differ in width.
    """
    _connect_values(blocks)
    return _connect_keys(blocks)


def _connect_values(blocks: nn.ModuleList) -> None:
    """Have the first of the layers with a `value_residual` give its values, and the others receive them."""
    residuals = [residual for block in blocks if (residual := _value_residual(block)) is not None]
    widths = sorted({residual.width for residual in residuals})
    if len(widths) > 1:
        several = " and of ".join(f"{width} features" for width in widths)
        raise ValueError(f"values of {several} cannot be mixed: layers with a value_residual differ in their widths")
    if len(residuals) > 1:
        residuals[0].give()
        for residual in residuals[1:]:
            residual.receive()


def _connect_keys(blocks: nn.ModuleList) -> list[int | None]:
    """Have each layer with `share_kv` take the keys and values of the nearest earlier one with own ones of its kind."""
    nearest: dict[Hashable, int] = {}
    sources: list[int | None] = []
    mixers: list[Any] = [getattr(block, "kv_mixer", None) for block in blocks]
    for index, mixer in enumerate(mixers):
        source = nearest.get(mixer.kv_kind) if getattr(mixer, "share_kv", False) else None
        sources.append(source)
        if source is not None:
            mixers[source].give_kv()
            mixer.take_kv()
        elif mixer is not None:
            nearest[mixer.kv_kind] = index
    return sources


def order_layers(num_layers: int, *, loops: int, prelude: int, coda: int) -> list[tuple[int, int]]:
    """Return the layers to run, each with the number of its earlier calls.

    Raises ValueError where no layer is left between prelude and coda.
    """
    if prelude + coda and prelude + coda >= num_layers:
        raise ValueError(f"no layer is left to loop: prelude {prelude} and coda {coda} are all of {num_layers} layers")
    first, end = prelude, num_layers - coda
    looped = [(index, loop) for loop in range(loops) for index in range(first, end)]
    return [*((index, 0) for index in range(first)), *looped, *((index, 0) for index in range(end, num_layers))]


def run_layers(
    scope: StateScope,
    blocks: nn.ModuleList,
    x: Tensor,
    order: Iterable[tuple[int, int]],
    sources: Sequence[int | None],
) -> Tensor:
    """Run layers in an order, each with the values that earlier ones share; `sources` are those of `connect_layers`."""
    values: dict[str, Any] = {}
    entries: dict[int, Any] = {}
    for index, _ in order:
        block, source = blocks[index], sources[index]
        named = ({} if _value_residual(block) is None else values) | ({} if source is None else {"kv": entries[source]})
        x = scope(f"blocks.{index}", block, x, **named)
        if isinstance(x, tuple):
            x, given = x
            entries[index] = given.get("kv")  # of the layer's latest call
            values = {name: each for name, each in given.items() if name != "kv"} | values  # of the first call
    return x


def _value_residual(block: nn.Module) -> Any:
    return getattr(block, "value_residual", None)
