"""The recurrence of sLSTM: an LSTM with exponential gates, and recurrent weights within each head (arXiv:2405.04517).

Each step's gates depend on the output of the step before, through a nonlinear function: there is no parallel form.

Letters in suffixes: B batch, T time, G the four gates, H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

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


Backend: TypeAlias = Callable[[Tensor, Tensor, SLSTMState, bool], tuple[Tensor, SLSTMState]]


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
    """Compute the same step by step: the definition, and the form that an exported model runs."""
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


def forward_steps(gates: Tensor, recurrent: Tensor, state: SLSTMState, exponential: bool) -> tuple[Tensor, ...]:
    """Return outputs, cells, normalizers and peaks of all steps, each [B, T, H, W]."""
    steps = []
    for gates_BGHW in gates.unbind(1):
        state = _step(gates_BGHW, recurrent, state, exponential)
        steps.append(state)
    return tuple(torch.stack(parts, 1) for parts in zip(*steps, strict=True))


# With the peaks constant, and dh_t the gradient of h_t through its output and the later steps' gates,
#     do' = dh c/n o (1 - o),  dc_t = dh o / n + f_{t+1} dc_{t+1},  dn_t = -dh o c/n² + f_{t+1} dn_{t+1},
#     di' = i (dc z + dn),  df' = f (dc c_{t-1} + dn n_{t-1}) d(log f)/df',  dz' = dc i (1 - z²),
# where i and f are divided by the peaks' growth. The products of these four with the recurrent weights add to dh_{t-1}.
def backward_steps(
    gradients: Sequence[Tensor],
    raw: Tensor,
    recurrent: Tensor,
    steps: Sequence[Tensor],
    before: Sequence[Tensor],
    exponential: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the gates' pre-activations, and of the initial output, cell and normalizer.

    `gradients` are of the outputs, cells and normalizers of all steps, `raw` the pre-activations, `steps` the cells,
    normalizers and peaks, and `before` the initial ones.
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


def define_operation(name: str, forward_loop: Callable[..., Any], backward_loop: Callable[..., Any]) -> Backend:
    """Return a backend that runs all steps, in a loop like `forward_steps`, as one operation with a backward pass.

    Opaque to torch.compile, which would unroll the steps.
    """

    @torch.library.custom_op(f"archlab::{name}", mutates_args=())
    def forward(
        gates: Tensor, recurrent: Tensor, h: Tensor, cell: Tensor, normalizer: Tensor, peak: Tensor, exponential: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, cell, normalizer, peak = forward_loop(gates, recurrent, SLSTMState(h, cell, normalizer, peak), exponential)
        return h, cell, normalizer, peak

    @torch.library.custom_op(f"archlab::{name}_back", mutates_args=())
    def backward(
        gradients: list[Tensor],
        raw: Tensor,
        recurrent: Tensor,
        steps: list[Tensor],
        before: list[Tensor],
        exponential: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        draw, dh, dcell, dnormalizer = backward_loop(gradients, raw, recurrent, steps, before, exponential)
        return draw, dh, dcell, dnormalizer

    def differentiate(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gates, recurrent, start, *before, h, cell, normalizer, peak = ctx.saved_tensors
        h_before = torch.cat((start[:, None], h[:, :-1]), 1)
        raw = gates + torch.einsum("bthj,ghjk->btghk", h_before, recurrent)
        steps = [cell, normalizer, peak]
        draw, *dstart = backward(list(gradients[:3]), raw, recurrent, steps, before, ctx.exponential)
        return draw, torch.einsum("bthj,btghk->ghjk", h_before, draw), *dstart, None, None

    forward.register_fake(_empty_steps)
    backward.register_fake(_empty_gradients)
    forward.register_autograd(differentiate, setup_context=_setup_context)
    register_flop_formula(getattr(torch.ops.archlab, name))(_flops)
    register_flop_formula(getattr(torch.ops.archlab, f"{name}_back"))(_backward_flops)

    def run(gates: Tensor, recurrent: Tensor, state: SLSTMState, exponential: bool) -> tuple[Tensor, SLSTMState]:
        steps = forward(gates, recurrent, *state, exponential)
        return steps[0], SLSTMState(*(part[:, -1].clone() for part in steps))

    return run


def _empty_steps(gates: Tensor, recurrent: Tensor, h: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(gates.new_empty(*gates.shape[:2], *h.shape[1:]) for _ in range(4))


def _empty_gradients(gradients: list[Tensor], raw: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return raw.new_empty(raw.shape), *(raw.new_empty(raw.shape[0], *raw.shape[3:]) for _ in range(3))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6], *output)
    ctx.exponential = inputs[6]


# FLOPs of the equations for one channel and step, beside the products; each elementwise function counts as one.
_FLOPS, _BACKWARD_FLOPS = 18, 45


def _flops(gates_BTGHW: Sizes, *_: Any, **__: Any) -> int:
    B, T, G, H, W = gates_BTGHW
    return B * T * H * W * (2 * G * W + _FLOPS)


def _backward_flops(gradients: Any, raw_BTGHW: Sizes, *_: Any, **__: Any) -> int:
    B, T, G, H, W = raw_BTGHW
    return B * T * H * W * (2 * G * W + _BACKWARD_FLOPS)


_in_a_loop = define_operation("slstm_loop", forward_steps, backward_steps)


def slstm_backends() -> dict[tuple[str, str], Backend]:
    """Return the operation in a loop of PyTorch's operations as the backend of every device that models are run on."""
    return {("slstm", device_type): _in_a_loop for device_type in ("cpu", "cuda")}


@cache
def register_slstm_backends() -> None:
    """Register the operation, for a native backend to replace."""
    for (name, device_type), backend in slstm_backends().items():
        register_backend(name, device_type, backend)
