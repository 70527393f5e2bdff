"""The recurrence of sLSTM: an LSTM with exponential gates, and recurrent weights within each head (arXiv:2405.04517).

Each step's gates depend on the output of the step before, through a nonlinear function: there is no parallel form.

Letters in suffixes: B batch, T time, G the four gates, H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from archlab.ops.dispatch import find_backend, register_backend
from archlab.ops.dtypes import at_least_float32, without_autocast
from archlab.ops.op_costs import Sizes

EMPTY = -1e38  # in place of -inf, whose difference with itself is NaN


class SLSTMState(NamedTuple):
    """Output, cell and normalizer of the last step, each [B, H, W], the latter two divided by e^peak.

    The peak is the largest log of an input gate, decayed. It cancels in cell / normalizer, and so has no gradient.
    """

    h: Tensor
    cell: Tensor
    normalizer: Tensor
    peak: Tensor


def init_slstm_state(like_BHW: Tensor) -> SLSTMState:
    """Return the state before the first token, in at least float32."""
    zeros = torch.zeros_like(at_least_float32(like_BHW))
    return SLSTMState(zeros, zeros.clone(), zeros.clone(), zeros + EMPTY)


def slstm(
    gates_BTGHW: Tensor, recurrent_GHWW: Tensor, state: SLSTMState, *, exponential: bool = False
) -> tuple[Tensor, SLSTMState]:
    """Return the outputs [B, T, H, W] in the gates' dtype, and the last state, eqs. 8 to 17.

    The pre-activations of input gate i, forget gate f, cell input z and output gate o are gates + h_{t-1} recurrent, in
    this order, and i = e^i', f = sigmoid(f') or, `exponential`, e^f'. Then c_t = f c_{t-1} + i tanh(z') for the cell,
    n_t = f n_{t-1} + i for the normalizer, and h_t = sigmoid(o') c_t / n_t. Steps run one after the other, in the
    device's backend where there is one.
    """
    with without_autocast(gates_BTGHW):
        gates, recurrent = at_least_float32(gates_BTGHW), at_least_float32(recurrent_GHWW)
        start = SLSTMState(*(at_least_float32(part) for part in state))
        backend = find_backend("slstm", gates) if gates.shape[1] > 1 else None
        h_BTHW, last = (backend or slstm_reference)(gates, recurrent, start, exponential)
        return h_BTHW.to(gates_BTGHW.dtype), last


def slstm_reference(
    gates_BTGHW: Tensor, recurrent_GHWW: Tensor, state: SLSTMState, exponential: bool = False
) -> tuple[Tensor, SLSTMState]:
    """Compute the same step by step: the definition, and what a model exported as source code runs."""
    outputs = []
    for gates_BGHW in gates_BTGHW.unbind(1):
        state = _step(gates_BGHW, recurrent_GHWW, state, exponential)
        outputs.append(state.h)
    return torch.stack(outputs, 1), state


def _step(gates_BGHW: Tensor, recurrent_GHWW: Tensor, state: SLSTMState, exponential: bool) -> SLSTMState:
    h, cell, normalizer, peak = state
    i, f, z, o = (gates_BGHW + torch.einsum("bhj,ghjk->bghk", h, recurrent_GHWW)).unbind(1)
    decayed = peak.detach() + (f if exponential else F.logsigmoid(f))
    peak = torch.maximum(decayed, i).detach()
    old, new = (decayed - peak).exp(), (i - peak).exp()
    cell, normalizer = old * cell + new * z.tanh(), old * normalizer + new
    return SLSTMState(o.sigmoid() * cell / normalizer, cell, normalizer, peak)


def _opaque(
    gates_BTGHW: Tensor, recurrent_GHWW: Tensor, state: SLSTMState, exponential: bool
) -> tuple[Tensor, SLSTMState]:
    """Run all steps as one operation, which torch.compile does not unroll."""
    steps = _forward(gates_BTGHW, recurrent_GHWW, *state, exponential)
    return steps[0], SLSTMState(*(part[:, -1].clone() for part in steps))


@torch.library.custom_op("archlab::slstm", mutates_args=())
def _forward(
    gates: Tensor, recurrent: Tensor, h: Tensor, cell: Tensor, normalizer: Tensor, peak: Tensor, exponential: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    run = find_backend("slstm_forward", gates) or forward_steps
    h, cell, normalizer, peak = run(gates, recurrent, SLSTMState(h, cell, normalizer, peak), exponential)
    return h, cell, normalizer, peak


def forward_steps(gates: Tensor, recurrent: Tensor, state: SLSTMState, exponential: bool) -> tuple[Tensor, ...]:
    """Return outputs, cells, normalizers and peaks of all steps, each [B, T, H, W]."""
    steps = []
    for gates_BGHW in gates.unbind(1):
        state = _step(gates_BGHW, recurrent, state, exponential)
        steps.append(state)
    return tuple(torch.stack(parts, 1) for parts in zip(*steps, strict=True))


@_forward.register_fake
def _(gates: Tensor, recurrent: Tensor, h: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (*gates.shape[:2], *h.shape[1:])
    return gates.new_empty(shape), gates.new_empty(shape), gates.new_empty(shape), gates.new_empty(shape)


@torch.library.custom_op("archlab::slstm_back", mutates_args=())
def _backward(
    dh: Tensor,
    dcell: Tensor,
    dnormalizer: Tensor,
    raw: Tensor,
    recurrent: Tensor,
    before: list[Tensor],
    cell: Tensor,
    normalizer: Tensor,
    peak: Tensor,
    exponential: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    run = find_backend("slstm_backward", dh) or backward_steps
    gradients = (dh, dcell, dnormalizer)
    draw, dstart, dcell_start, dnormalizer_start = run(
        gradients, raw, recurrent, (cell, normalizer, peak), tuple(before), exponential
    )
    return draw, dstart, dcell_start, dnormalizer_start


@_backward.register_fake
def _(dh: Tensor, dcell: Tensor, dnormalizer: Tensor, raw: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (dh.shape[0], *dh.shape[2:])
    return raw.new_empty(raw.shape), dh.new_empty(shape), dh.new_empty(shape), dh.new_empty(shape)


# With the peaks constant, and dh_t the gradient of h_t through its output and the later steps' gates,
#     do' = dh c/n o (1 - o),  dc_t = dh o / n + f_{t+1} dc_{t+1},  dn_t = -dh o c/n² + f_{t+1} dn_{t+1},
#     di' = i (dc z + dn),  df' = f (dc c_{t-1} + dn n_{t-1}) d(log f)/df',  dz' = dc i (1 - z²),
# where i and f are divided by the peaks' growth. The products of these four with the recurrent weights add to dh_{t-1}.
def backward_steps(
    gradients: tuple[Tensor, Tensor, Tensor],
    raw: Tensor,
    recurrent: Tensor,
    steps: tuple[Tensor, Tensor, Tensor],
    before: tuple[Tensor, ...],
    exponential: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the gates' pre-activations, and of the initial output, cell and normalizer.

    `gradients` are of the outputs, cells and normalizers of all steps, `raw` the pre-activations, and `before` the
    initial cell, normalizer and peak.
    """
    dnext_h, dnext_cell, dnext_normalizer = (torch.zeros_like(part) for part in before)
    draw = torch.empty_like(raw)
    for t in range(raw.shape[1] - 1, -1, -1):
        cell_before, normalizer_before, peak_before = (x[:, t - 1] for x in steps) if t else before
        cell, normalizer, peak = (x[:, t] for x in steps)
        i, f, z, o = raw[:, t].unbind(1)
        new, z, o = (i - peak).exp(), z.tanh(), o.sigmoid()
        old = (peak_before + (f if exponential else F.logsigmoid(f)) - peak).exp()
        dh = gradients[0][:, t] + dnext_h
        dcell = gradients[1][:, t] + dnext_cell + dh * o / normalizer
        dnormalizer = gradients[2][:, t] + dnext_normalizer - dh * o * cell / normalizer.square()
        dforget = old * (dcell * cell_before + dnormalizer * normalizer_before)
        dforget = dforget if exponential else dforget * (-f).sigmoid()
        dinput, dz = new * (dcell * z + dnormalizer), dcell * new * (1 - z.square())
        draw[:, t] = torch.stack((dinput, dforget, dz, dh * cell / normalizer * o * (1 - o)), 1)
        dnext_h = torch.einsum("bghk,ghjk->bhj", draw[:, t], recurrent)
        dnext_cell, dnext_normalizer = dcell * old, dnormalizer * old
    return draw, dnext_h, dnext_cell, dnext_normalizer


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6], *output)
    ctx.exponential = inputs[6]


def _differentiate(ctx: Any, dh: Tensor, dcell: Tensor, dnormalizer: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    gates, recurrent, start, *before, h, cell, normalizer, peak = ctx.saved_tensors
    h_before = torch.cat((start[:, None], h[:, :-1]), 1)
    raw = gates + torch.einsum("bthj,ghjk->btghk", h_before, recurrent)
    draw, *dstart = _backward(dh, dcell, dnormalizer, raw, recurrent, before, cell, normalizer, peak, ctx.exponential)
    return draw, torch.einsum("bthj,btghk->ghjk", h_before, draw), *dstart, None, None


_forward.register_autograd(_differentiate, setup_context=_setup_context)

# Of one channel and step, beside the products: what the equations have, each function of a number counted as one.
_FLOPS, _BACKWARD_FLOPS = 18, 45


def _flops(gates_BTGHW: Sizes, recurrent_GHWW: Sizes, *_: Any, **__: Any) -> int:
    B, T, G, H, W = gates_BTGHW
    return B * T * H * W * (2 * G * W + _FLOPS)


def _backward_flops(dh_BTHW: Sizes, *_: Any, **__: Any) -> int:
    return prod(dh_BTHW) * (8 * dh_BTHW[-1] + _BACKWARD_FLOPS)


register_flop_formula(torch.ops.archlab.slstm)(_flops)
register_flop_formula(torch.ops.archlab.slstm_back)(_backward_flops)


def slstm_backends() -> dict[tuple[str, str], Callable[..., Any]]:
    """Return the opaque operation as the backend on every device that models are run on."""
    return {("slstm", device_type): _opaque for device_type in ("cpu", "cuda")}


def register_slstm_backends() -> None:
    """Register the opaque operation."""
    for (name, device_type), backend in slstm_backends().items():
        register_backend(name, device_type, backend)
