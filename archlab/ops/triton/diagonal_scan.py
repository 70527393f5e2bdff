"""The Triton backend of the diagonal scan, a custom operation.

Letters in suffixes: B batch, T time, D channels, N states a channel, P parts of a number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from archlab.ops.triton.launch import Direction, Launch, num_bytes

from ._diagonal_backward import backward
from ._diagonal_forward import forward

# A row is 32 channels, one warp, whose loads are lines of 128 bytes. A tile of 16 rows of 64 steps is 128 KiB of u,
# which the caches hold for the second pass. Measured on an H100: 8 rows of 32 steps take half as long again, as few
# warps wait for their loads together and the fixed cost of a tile is shared by fewer steps.
ROWS, CHANNELS, MAX_STEPS = 16, 32, 64
# Parts of states that are processed together: 8 complex states spill registers forward, and 4 backward.
PARTS, PARTS_BACK = 8, 4


def diagonal_scan(
    u_BTD: Tensor, near_DN: Tensor, rest_DNP: Tensor, weight_DNP: Tensor, state_BDNP: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run h_t = (near + rest) h_{t-1} + u_t; return y_t = Re(sum over n of w_n h_{t,n}) [B, T, D] and the last h.

    All of one dtype, float32 or float64; `near` has no gradient. The backward pass saves only the inputs.
    """
    state = u_BTD.new_zeros(u_BTD.shape[0], *rest_DNP.shape) if state_BDNP is None else state_BDNP
    y_BTD, last_BDNP = _forward(u_BTD, near_DN, rest_DNP, weight_DNP, state)
    return y_BTD, last_BDNP


# Custom operations, as torch.compile and autograd cannot look into the launch of a kernel with computed sizes: the fake
# gives shapes for tracing, the registered backward calls a kernel of its own.
@torch.library.custom_op("archlab::triton_diagonal_scan", mutates_args=())
def _forward(u: Tensor, near: Tensor, rest: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    y, last = torch.empty_like(u, memory_format=torch.contiguous_format), _copy(state)
    u, near, rest, weight = (x.contiguous() for x in (u, near, rest, weight))
    _forward_launch(u, near, rest, weight, last, y).run()
    return y, last


@_forward.register_fake
def _(u: Tensor, near: Tensor, rest: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), state.new_empty(state.shape)


@torch.library.custom_op("archlab::triton_diagonal_scan_back", mutates_args=())
def _backward(
    dy: Tensor, dlast: Tensor, u: Tensor, near: Tensor, rest: Tensor, weight: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    u, dy, near, rest, weight = (x.contiguous() for x in (u, dy, near, rest, weight))
    du, sums = torch.empty_like(u), u.new_zeros(5, *state.shape)
    # The kernel computes conjugates of gradients; `_parts` conjugates them back. Copied where contiguous too: a complex
    # view cannot begin at an odd offset of another tensor's memory.
    _complex(sums[1]).copy_(_complex(_copy(dlast)).conj())
    _backward_launch(u, dy, near, rest, weight, sums, du).run()
    g, a, s, by_weight, by_rest = map(_complex, sums)
    initial = _complex(_copy(state))
    P = rest.shape[2]
    return du, _parts(by_rest + initial * s, P), _parts(by_weight + initial * g, P), _parts(a, P)


@_backward.register_fake
def _(
    dy: Tensor, dlast: Tensor, u: Tensor, near: Tensor, rest: Tensor, weight: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    drest, dweight, dstate = (u.new_empty(state.shape) for _ in range(3))
    return u.new_empty(u.shape), drest, dweight, dstate


def _complex(x_P: Tensor) -> Tensor:
    """View parts in the last dimension as one number each, real or complex."""
    return x_P[..., 0] if x_P.shape[-1] == 1 else torch.view_as_complex(x_P)


def _parts(x: Tensor, count: int) -> Tensor:
    """Return the parts of the conjugate: the gradient by parts of a number whose conjugate gradient this is."""
    return x[..., None].contiguous() if count == 1 else torch.view_as_real(x.conj().resolve_conj()).contiguous()


def _copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
    du, drest, dweight, dstate = _backward(dy, dlast, *ctx.saved_tensors)
    return du, None, drest.sum(0), dweight.sum(0), dstate


_forward.register_autograd(_differentiate, setup_context=_setup_context)


def _forward_launch(u: Tensor, near: Tensor, rest: Tensor, weight: Tensor, last: Tensor, y: Tensor) -> Launch:
    tensors = {"u": u, "near": near, "rest": rest, "weight": weight, "last": last, "y": y}
    # FLOPs per step and state of both passes, counted in the kernel's loops.
    return _launch(forward, tensors, PARTS, "last", 30 if rest.shape[2] == 2 else 12)


def _backward_launch(
    u: Tensor, dy: Tensor, near: Tensor, rest: Tensor, weight: Tensor, sums: Tensor, du: Tensor
) -> Launch:
    tensors = {"u": u, "dy": dy, "near": near, "rest": rest, "weight": weight, "sums": sums, "du": du}
    return _launch(backward, tensors, PARTS_BACK, "sums", 97 if rest.shape[2] == 2 else 35)


def _launch(kernel: Any, tensors: dict[str, Tensor], parts: int, states: str, flops: int) -> Launch:
    """Return a launch that reads and writes `states`, of `flops` operations per step and state."""
    u_BTD, rest_DNP = tensors["u"], tensors["rest"]
    (B, T, D), (N, P) = u_BTD.shape, rest_DNP.shape[1:]
    steps = min(max(-(-T // ROWS), 2), MAX_STEPS)
    sizes = {"ROWS": ROWS, "LOG_STEPS": (steps - 1).bit_length(), "CHANNELS": CHANNELS}
    return Launch(
        kernel,
        (-(-D // CHANNELS), B),
        tensors | {"T": T, "D": D, "N": N},
        {"STATES": parts // P, "COMPLEX": P == 2} | sizes,
        num_warps=ROWS,
        traffic={states: 2},
        flops=flops * u_BTD.numel() * N,
    )


def directions() -> tuple[Direction, ...]:
    """Return both directions at the sizes of CEMA in a layer of Megalodon 7B, on 4096 steps."""
    B, T, D, N, P = 1, 4096, 4096, 16, 2
    u, states, near, rest = (
        torch.empty(shape, device="meta") for shape in ((B, T, D), (B, D, N, P), (D, N), (D, N, P))
    )
    sums = torch.empty(5, *states.shape, device="meta")
    forward_launch = _forward_launch(u, near, rest, rest, states, u)
    backward_launch = _backward_launch(u, u, near, rest, rest, sums, u)
    parameters = num_bytes(near, rest, rest)
    return (
        Direction("diagonal scan, forward", (forward_launch,), num_bytes(u, u, states, states) + parameters),
        Direction("diagonal scan, backward", (backward_launch,), num_bytes(u, u, u, states, states) + 2 * parameters),
    )
