"""The Triton backend of gated linear attention.

Letters in suffixes: B batch, T time, H heads, K width of a key, V width of a value, E either K or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
from torch import Tensor

from archlab.ops.triton.launch import Direction, Launch, num_bytes

from . import _gated_linear_kernels as kernels

# Of the sizes that were measured on an H100 the fastest; a few bytes that are spilled cost less than smaller tiles.
PRECISION = "ieee"  # of the forward pass's products; "tf32x3" and "tf32" are faster, and less exact, on tensor cores
LEVELS = 5  # log2 of the steps of a chunk: 32 take 0.6 of the time of 16, and of 64, on an H100
MAX_PIECE, MAX_PIECE_PER_CHANNEL = 32, 128  # rows of the state in one product of the forward pass
MAX_SLAB = 32  # columns of V of a program of the forward pass
STAGES = 3  # of software pipelining in the backward pass: two steps are loaded while one is computed
MAX_STATE = 16384  # elements of the state in a program of the backward pass: 64 per thread of 8 warps
LEAST = -1000.0  # stands in for -inf: its exponential is 0 in float32 and float64


def gated_linear(
    q_BTHK: Tensor, k_BTHK: Tensor, v_BTHV: Tensor, log_decay_BTHE: Tensor | None, state_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """Run S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ; return y_t = q_t S_t [B, T, H, V] and the last S.

    Chunked as in gated linear attention (arXiv:2312.06635); all tensors are of one dtype, float32 or float64. The
    backward pass saves one state per segment of chunks and recomputes the others. The gradient of the log decay is a
    sum of differences: its error is relative to the largest of them, not to itself.
    """
    y_BTHV, last_BHKV, _ = _forward(q_BTHK, k_BTHK, v_BTHV, log_decay_BTHE, state_BHKV)
    return y_BTHV, last_BHKV


# Custom operations, as torch.compile and autograd cannot look into the launch of a kernel with computed sizes: the fake
# gives shapes for tracing, the registered backward calls a kernel of its own.
@torch.library.custom_op("archlab::triton_gated_linear", mutates_args=())
def _forward(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    inputs = _contiguous(q, k, v, log_decay, state)
    out = _empty(*inputs)
    _launch(inputs, out).run()
    return out


@_forward.register_fake
def _empty(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    B, T, H, K, V = *q.shape, v.shape[-1]
    num_segments = -(-T // (_segment(K, V) << LEVELS))
    return v.new_empty(v.shape), v.new_empty(B, H, K, V), v.new_empty(B, H, num_segments, K, V)


@torch.library.custom_op("archlab::triton_gated_linear_back", mutates_args=())
def _backward(
    dy: Tensor, dlast: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    inputs = _contiguous(dy, dlast, q, k, v, log_decay, starts)
    dv, dstate = torch.empty_like(inputs[4]), torch.empty_like(inputs[1])
    sums = _empty_partial_sums(*inputs[2:6])
    _launch_back(inputs, (*sums, dv, dstate)).run()
    dq, dk, dlog_decay = (x[0] if x.shape[0] == 1 else x.sum(0) for x in sums)
    return dq, dk, dv, dlog_decay, dstate


@_backward.register_fake
def _empty_back(
    dy: Tensor, dlast: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    decay_shape = (0,) if log_decay is None else log_decay.shape
    shapes = (q.shape, k.shape, v.shape, decay_shape, dlast.shape)
    dq, dk, dv, dlog_decay, dstate = (q.new_empty(shape) for shape in shapes)
    return dq, dk, dv, dlog_decay, dstate


def _empty_partial_sums(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return memory for the gradients of q, k and the log decay by each slab of V, which the caller adds up."""
    slabs = triton.cdiv(v.shape[-1], _slab(q.shape[-1], v.shape[-1]))
    decay_shape = (0,) if log_decay is None else log_decay.shape
    return q.new_empty(slabs, *q.shape), q.new_empty(slabs, *k.shape), q.new_empty(slabs, *decay_shape)


def _launch(inputs: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> Launch:
    q, k, v, log_decay, state = inputs
    y, last, starts = out
    K, V = state.shape[-2:]
    tensors = {"q": q, "k": k, "v": v, "log_decay": log_decay, "state": state, "y": y, "last": last, "starts": starts}
    piece = _tile(K, MAX_PIECE_PER_CHANNEL if _per_channel(log_decay) else MAX_PIECE)
    slab = _tile(V, MAX_SLAB)
    sizes = {"K": piece, "V": slab, "PIECES": triton.cdiv(K, piece), "LEVELS": LEVELS, "SEGMENT": _segment(K, V)}
    chunk, constants = 1 << LEVELS, sizes | {"LEAST": LEAST, "PRECISION": PRECISION}
    # Multiply-adds per step of the scores, of two products with the state, and of scores times values. Only IEEE
    # products are counted, as others run on tensor cores.
    score_macs = chunk * K * (LEVELS if _per_channel(log_decay) else 1)
    step_flops = 2 * (score_macs + 2 * K * V + chunk * V) if PRECISION == "ieee" else 0
    return _over_slabs(kernels.forward, tensors, constants, flops=step_flops * q[..., 0].numel())


def _launch_back(inputs: tuple[Tensor, ...], out: tuple[Tensor, ...]) -> Launch:
    dy, dlast, q, k, v, log_decay, starts = inputs
    dq, dk, dlog_decay, dv, dstate = out
    K, V = starts.shape[-2:]
    tensors = {"dy": dy, "dlast": dlast, "q": q, "k": k, "v": v, "log_decay": log_decay, "starts": starts}
    tensors |= {"dq": dq, "dk": dk, "dv": dv, "dstate": dstate}
    tensors["dlog_decay"] = None if log_decay is None else dlog_decay
    sizes = {"K": triton.next_power_of_2(K), "V": _slab(K, V), "SEGMENT": _segment(K, V) << LEVELS, "STAGES": STAGES}
    return _over_slabs(kernels.backward, tensors, sizes, flops=14 * K * V * q[..., 0].numel())


def _over_slabs(kernel: Any, tensors: Mapping[str, Tensor | None], constants: dict[str, Any], flops: float) -> Launch:
    """Return a launch over slabs of V and heads; an absent tensor becomes the constant None."""
    q, v, log_decay = tensors["q"], tensors["v"], tensors["log_decay"]
    assert q is not None
    assert v is not None
    B, T, H, K, V = *q.shape, v.shape[-1]
    pointers = {f"{name}_ptr": x for name, x in tensors.items()}
    return Launch(
        kernel,
        (triton.cdiv(V, constants["V"]), B * H),
        {name: x for name, x in pointers.items() if x is not None}
        | {"num_steps": T, "num_heads": H, "width_k": K, "width_v": V},
        constants | {"PER_CHANNEL": _per_channel(log_decay)} | {name: x for name, x in pointers.items() if x is None},
        num_warps=8,
        flops=flops,
    )


def _contiguous(*tensors: Tensor | None) -> Any:
    return tuple(x if x is None else x.contiguous() for x in tensors)


def _per_channel(log_decay: Tensor | None) -> bool:
    return log_decay is not None and log_decay.shape[-1] > 1


def _tile(width: int, largest: int) -> int:
    """Return the power of two that holds a width, at least 16 for a product in Triton and at most `largest`."""
    return min(largest, max(16, triton.next_power_of_2(width)))


def _slab(K: int, V: int) -> int:
    """Return the columns of V of a program of the backward pass."""
    return min(triton.next_power_of_2(V), max(1, MAX_STATE // triton.next_power_of_2(K)))


def _segment(K: int, V: int) -> int:
    """Return the chunks of a segment, whose saved state is then at most an eighth of its steps' q, k, v and y."""
    return triton.next_power_of_2(triton.cdiv(4 * K * V, (K + V) << LEVELS))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # Saved states have no gradient, and as large zeros for them would be wasted.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:4], output[2])


def _differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    q, k, v, log_decay, starts = ctx.saved_tensors
    dy = torch.zeros_like(v) if dy is None else dy
    dlast = torch.zeros_like(starts[:, :, 0]) if dlast is None else dlast
    dq, dk, dv, dlog_decay, dstate = _backward(dy, dlast, q, k, v, log_decay, starts)
    return dq, dk, dv, None if log_decay is None else dlog_decay, dstate


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def directions() -> tuple[Direction, ...]:
    """Return both directions at the sizes of gated linear attention, a decay a channel, and of Mamba-2, one a head."""
    return (*_directions("channel", 64), *_directions("head", 1))


def _directions(decay: str, E: int) -> tuple[Direction, Direction]:
    B, T, H, K, V = 4, 4096, 8, 64, 128
    q, k, v, dy, log_decay = (torch.empty(B, T, H, width, device="meta") for width in (K, K, V, V, E))
    state, dlast = (torch.empty(B, H, K, V, device="meta") for _ in range(2))
    out = _empty(q, k, v, log_decay, state)
    dq, dk, dlog_decay = _empty_partial_sums(q, k, v, log_decay)
    launch = _launch((q, k, v, log_decay, state), out)
    back = _launch_back((dy, dlast, q, k, v, log_decay, out[2]), (dq, dk, dlog_decay, dy, dlast))
    least, least_back = num_bytes(q, k, v, log_decay, state, *out[:2]), num_bytes(q, k, v, dy, log_decay, dlast)
    least_back += num_bytes(q, k, v, log_decay, state)
    return Direction(f"decay a {decay}, forward", (launch,), least), Direction(
        f"decay a {decay}, back", (back,), least_back
    )
