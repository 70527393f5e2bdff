"""The matrix products of a call, alone: recorded once as the call makes them, then run again on random numbers.

Letters in suffixes: N batch and heads, T queries, S keys that a query sees, K width of a key, V width of a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import prod
from typing import Any

import torch
from _measure import Step
from torch import Tensor

from archlab.runtime.private_apis import DispatchMode

_PLAIN = ("mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_", "convolution", "convolution_backward")
_FUSED = "_scaled_dot_product_flash_attention_for_cpu"


class Products(DispatchMode):
    """Records the products of everything that runs in its block, forward and backward.

    What torch multiplies by itself is run again as it is. A fused operation is its products without all else: attention
    two forward and four backward, of half of the pairs where it is causal, so without the scores that a fused backward
    pass computes again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation, and record its products."""
        namespace, name = str(func.overloadpacket).split(".", 1)
        if namespace == "aten" and name in _PLAIN:
            self.steps.append(_again(func, args, dict(kwargs or {})))
        elif name in _PAIRS:
            pairs = _PAIRS[name](args, dict(kwargs or {}))
            self.steps.extend(_product(a, b) for a, b in pairs)
        return func(*args, **kwargs or {})

    def run(self) -> None:
        """Compute all products once more."""
        for step in self.steps:
            step()


def record(step: Step) -> Products:
    """Return the products of one call, which runs twice: the first time may do more."""
    step()
    _random.cache_clear()  # or the tensors of all layers would be kept
    with Products() as products:
        step()
    return products


def _again(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step:
    own = tuple(_like(value) if isinstance(value, Tensor) else value for value in args)
    return lambda: func(*own, **kwargs)


def _product(a: Tensor, b: Tensor) -> Step:
    return lambda: a @ b


def _like(x: Tensor) -> Tensor:
    return _random(tuple(x.shape), tuple(x.stride()), x.dtype)


@cache
def _random(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return one tensor for all that are laid out alike; shared, it is in the caches more often than a call's own."""
    size = 1 + sum((count - 1) * stride for count, stride in zip(shape, strides, strict=True))
    return torch.randn(size, dtype=dtype).as_strided(shape, strides)


def _normal(*shape: int) -> Tensor:
    strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return _random(shape, strides, torch.float32)


Pairs = Iterator[tuple[Tensor, Tensor]]


def _attention(N: int, T: int, S: int, K: int, V: int, *, backward: bool) -> Pairs:
    q, k, v, weights = _normal(N, T, K), _normal(N, S, K), _normal(N, S, V), _normal(N, T, S)
    if not backward:
        yield from ((q, k.mT), (weights, v))
        return
    dy = _normal(N, T, V)
    yield from ((dy, v.mT), (weights.mT, dy), (weights, k), (weights.mT, q))


def _fused(args: tuple[Any, ...], kwargs: dict[str, Any], *, backward: bool) -> Pairs:
    q_BHTK, k_BHSK, v_BHSV = args[1:4] if backward else args[:3]
    is_causal = kwargs.get("is_causal", args[7 if backward else 4] if len(args) > (7 if backward else 4) else False)
    *batch, T, K = q_BHTK.shape
    S = k_BHSK.shape[2] // (2 if is_causal else 1)
    return _attention(prod(batch), T, S, K, v_BHSV.shape[3], backward=backward)


def _causal(args: tuple[Any, ...], _: dict[str, Any], *, backward: bool) -> Pairs:
    q_BTHK, _k, v_BTHV = args[1:4] if backward else args[:3]
    B, T, H, K = q_BTHK.shape
    return _attention(B * H, T, T // 2, K, v_BTHV.shape[3], backward=backward)


def _blocks(args: tuple[Any, ...], _: dict[str, Any], *, backward: bool) -> Pairs:
    q_BTHK, _k, v_BSGV, blocks_BGTJ = args[1:5] if backward else args[:4]
    num_keys = blocks_BGTJ.shape[3] * args[-2]  # before the scale the size of a block
    B, T, H, K = q_BTHK.shape
    return _attention(B * H, T, num_keys, K, v_BSGV.shape[3], backward=backward)


def _grouped(args: tuple[Any, ...], _: dict[str, Any], *, backward: bool) -> Pairs:
    *_dy, x_ND, weight_EPD, counts_E = args
    for count, weight_PD in zip(counts_E.tolist(), weight_EPD, strict=True):
        x, y, weight = _normal(count, x_ND.shape[1]), _normal(count, len(weight_PD)), _normal(*weight_PD.shape)
        yield from ((y, weight), (y.mT, x)) if backward else ((x, weight.mT),)


def _slstm(args: tuple[Any, ...], _: dict[str, Any], *, backward: bool) -> Pairs:
    """Yield the recurrent products of all steps at once, which one step after the other cannot be faster than."""
    B, T, G, H, W = args[1 if backward else 0].shape
    h, gates, weight = _normal(H, B * T, W), _normal(H, B * T, G * W), _normal(H, W, G * W)
    yield (gates, weight.mT) if backward else (h, weight)  # that of the weights' gradient is torch's own einsum


def _both_ways(name: str, pairs: Callable[..., Pairs], back: str) -> dict[str, Callable[..., Pairs]]:
    return {
        name: lambda args, kwargs: pairs(args, kwargs, backward=False),
        back: lambda args, kwargs: pairs(args, kwargs, backward=True),
    }


_PAIRS: dict[str, Callable[[tuple[Any, ...], dict[str, Any]], Pairs]] = {
    **_both_ways(_FUSED, _fused, f"{_FUSED}_backward"),
    **_both_ways("causal_attention", _causal, "causal_attention_back"),
    **_both_ways("block_attention", _blocks, "block_attention_back"),
    **_both_ways("grouped_linear", _grouped, "grouped_linear_back"),
    **_both_ways("slstm", _slstm, "slstm_back"),
    **_both_ways("slstm_loop", _slstm, "slstm_loop_back"),
}
