"""The selective scan of Mamba: a diagonal recurrence of a few states a channel, whose decay depends on the token.

Mamba's B and C are named `in_` and `out_` here, as B and C are sizes.

Letters in suffixes: B batch, T time, D channels, N states of a channel, M chunks, C steps a chunk, G chunks a group,
R = B * M rows, one per chunk. Inside chunks D is the last dimension, so that a step of all channels is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from archlab.ops.dispatch import find_backend
from archlab.ops.dtypes import at_least_float32, without_autocast

CHUNK = 16  # all chunks are scanned in parallel, step by step: CHUNK steps with states of T / CHUNK chunks at once
GROUP = 32  # chunks whose states are scanned sequentially, all groups in parallel; the groups are scanned likewise


def selective_scan(
    x_BTD: Tensor, dt_BTD: Tensor, A_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor, state_BDN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t; return y_t = h_t · C_t [B, T, D] and the last h (arXiv:2312.00752).

    B and C are `in_` and `out_`. dt is at least 0 and A at most 0, so that no decay exceeds one. h is [B, D, N] in at
    least float32; y has x's dtype. The device's backend computes it where there is one; the PyTorch implementation
    scans chunks in parallel. Its autograd saves one state per chunk and supports no second derivatives.
    """
    with without_autocast(x_BTD):
        x, dt, A, in_, out = (at_least_float32(a) for a in (x_BTD, dt_BTD, A_DN, in_BTN, out_BTN))
        initial = _zero_state(x, A) if state_BDN is None else at_least_float32(state_BDN)
        y_BTD, last_BDN = _implementation(x)(x, dt, A, in_, out, initial)
        return y_BTD.to(x_BTD.dtype), last_BDN


def _implementation(x_BTD: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    if x_BTD.shape[1] == 1:
        return selective_scan_reference
    backend = find_backend("selective_scan", x_BTD)
    return backend if backend is not None and x_BTD.dtype == torch.float32 else _chunked


def selective_scan_reference(
    x_BTD: Tensor, dt_BTD: Tensor, A_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor, state_BDN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the same step by step: the definition, and the form for a single step."""
    x, dt, A, in_, out = (at_least_float32(a) for a in (x_BTD, dt_BTD, A_DN, in_BTN, out_BTN))
    h_BDN, outputs = _zero_state(x, A) if state_BDN is None else at_least_float32(state_BDN), []
    for t in range(x.shape[1]):
        h_BDN = (dt[:, t, :, None] * A).exp() * h_BDN + (dt * x)[:, t, :, None] * in_[:, t, None]
        outputs.append((h_BDN @ out[:, t, :, None])[..., 0])
    return torch.stack(outputs, 1).to(x_BTD.dtype), h_BDN


def _zero_state(x_BTD: Tensor, A_DN: Tensor) -> Tensor:
    return x_BTD.new_zeros(x_BTD.shape[0], *A_DN.shape)


def _chunked(
    x_BTD: Tensor, dt_BTD: Tensor, A_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor, state_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    B, T = x_BTD.shape[:2]
    timed = (_split_chunks(a, min(CHUNK, T)) for a in (dt_BTD * x_BTD, dt_BTD, in_BTN, out_BTN))
    y_CRD, last_BND = _scan_chunks_opaque(*timed, A_DN.mT.contiguous(), state_BDN.mT.contiguous())
    y_BTD = y_CRD.unflatten(1, (B, -1)).permute(1, 2, 0, 3).flatten(1, 2)[:, :T]
    return y_BTD, last_BND.mT.clone(memory_format=torch.contiguous_format)


def _split_chunks(a_BTD: Tensor, C: int) -> Tensor:
    """Split time into [C, R, D], the last chunk padded with zeros: steps with dt = 0, which change no state."""
    padded = F.pad(a_BTD, (0, 0, 0, -a_BTD.shape[1] % C))
    return padded.unflatten(1, (-1, C)).permute(2, 0, 1, 3).flatten(1, 2).contiguous()


@torch.compiler.allow_in_graph
def _scan_chunks_opaque(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run `_ScanChunks` as one node of Dynamo's graph."""
    # Dynamo does not look inside, so the in-place steps and once_differentiable break no graph; AOTAutograd traces
    # the forward and the backward written here, and does not differentiate the steps itself.
    outputs: tuple[Tensor, Tensor] = _ScanChunks.apply(*inputs)
    return outputs


class _ScanChunks(torch.autograd.Function):
    """Scan all chunks in parallel, first from zeros to find the state before each chunk, then from those states.

    u = dt x and dt: [C, R, D], in_ and out: [C, R, N], A: [N, D], initial: [B, N, D] -> y [C, R, D] and the last h
    [B, N, D]. The states inside chunks are not saved but recomputed by the backward pass.

    Backward: let a_t = exp(dt_t A), so that h_t = a_t h_{t-1} + u_t in_t and y_t = h_t · out_t. The gradient of h_t is
        dh_t = dy_t out_t + a_{t+1} dh_{t+1},
    a scan of the same form from the last step to the first; c_t = a_t dh_t is the part that passes on to h_{t-1}. Then
        du_t = dh_t · in_t,  din_t = sum over channels of dh_t u_t,  dout_t = sum over channels of dy_t h_t,
    and with log a_t = dt_t A, whose gradient is g_t = a_t dh_t h_{t-1} = c_t h_{t-1},
        d(dt_t) = sum over states of g_t A,  dA = sum over steps of g_t dt_t.
    Here dt counts in the decay only; autograd adds the gradient of u = dt x.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, in_: Tensor, out: Tensor, A_ND: Tensor, initial_BND: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs and the last state."""
        h_RND = A_ND.new_zeros(u.shape[1], *A_ND.shape)
        for j in range(len(u)):
            h_RND = _input(u, in_, j).addcmul_(_decay(dt, A_ND, j), h_RND)
        starts_RND, last_BND = _chunk_initial_states(dt.sum(0), h_RND, A_ND, initial_BND)
        h_RND, outputs = starts_RND, []
        for j in range(len(u)):
            h_RND = _input(u, in_, j).addcmul_(_decay(dt, A_ND, j), h_RND)
            outputs.append(out[j, :, None] @ h_RND)
        ctx.save_for_backward(u, dt, in_, out, A_ND, starts_RND)
        return torch.stack(outputs).squeeze(2), last_BND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast_BND: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of all inputs; `carried` is c_{t+1} of the class's derivation, then c_t."""
        u, dt, in_, out, A_ND, starts_RND = ctx.saved_tensors
        decays, states = [], [starts_RND]
        for j in range(len(u)):
            decays.append(_decay(dt, A_ND, j))
            states.append(_input(u, in_, j).addcmul_(decays[j], states[j]))
        carried, dinitial_BND = _chunk_state_grads(dy, out, dt, decays, A_ND, dlast_BND)
        dA_RND, gradients = torch.zeros_like(carried), []
        for j in reversed(range(len(u))):
            dh = torch.addcmul(carried, out[j, :, :, None], dy[j, :, None])
            carried = decays[j].mul_(dh)  # in place: this is the last use of the step's decay
            dlog = carried * states[j]
            dA_RND.addcmul_(dlog, dt[j, :, None])
            du, ddt = in_[j, :, None] @ dh, (dlog * A_ND).sum(1, keepdim=True)
            gradients.append((du, ddt, dh @ u[j, :, :, None], states[j + 1] @ dy[j, :, :, None]))
        timed = (torch.stack(steps[::-1]).flatten(2) for steps in zip(*gradients, strict=True))
        return *timed, dA_RND.sum(0), dinitial_BND


def _decay(dt_CRD: Tensor, A_ND: Tensor, j: int) -> Tensor:
    """Return exp(dt A) of step j [R, N, D], in new memory."""
    return (dt_CRD[j, :, None] * A_ND).exp_()


def _input(u_CRD: Tensor, in_CRN: Tensor, j: int) -> Tensor:
    """Return u in of step j [R, N, D], in new memory."""
    return in_CRN[j, :, :, None] * u_CRD[j, :, None]


def _chunk_state_grads(
    dy: Tensor, out: Tensor, dt: Tensor, decays: list[Tensor], A_ND: Tensor, dlast_BND: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the state after each chunk through later steps, and that of the initial state."""
    # The backward scan mirrors the forward one: from zeros, each chunk's own part of the gradient of the state before
    # it; then the same scan over chunks in reverse order, where the last state's gradient takes the initial state's
    # place. A chunk's decay, exp(A times its sum of dt), is the same in both directions.
    carried = torch.zeros_like(decays[0])
    for j in reversed(range(len(decays))):
        carried = torch.addcmul(carried, out[j, :, :, None], dy[j, :, None]).mul_(decays[j])
    total_RD, B = dt.sum(0), dlast_BND.shape[0]
    after_RND, dinitial_BND = _chunk_initial_states(
        _reverse_chunks(total_RD, B), _reverse_chunks(carried, B), A_ND, dlast_BND
    )
    return _reverse_chunks(after_RND, B), dinitial_BND


def _reverse_chunks(a_RD: Tensor, B: int) -> Tensor:
    """Return the chunks of each sample in reverse order."""
    return a_RD.unflatten(0, (B, -1)).flip(1).flatten(0, 1)


def _chunk_initial_states(dt_RD: Tensor, ends_RND: Tensor, A_ND: Tensor, initial_BND: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk [R, N, D] and the last, from each chunk's sum of dt and end state from zeros.

    Beyond GROUP chunks, all groups are scanned in parallel from zeros, then the groups by this function itself, then
    all groups again from the states found: GROUP + M / GROUP sequential steps, twice, instead of M.
    """
    B = initial_BND.shape[0]  # len() of a tensor is a number: a traced program would be for that many rows alone
    M = dt_RD.shape[0] // B
    if M <= GROUP:
        states = _sequential_chunks(dt_RD.unflatten(0, (B, M)), ends_RND.unflatten(0, (B, M)), A_ND, initial_BND)
        return torch.stack(states[:-1], 1).flatten(0, 1), states[-1]
    dt_RGD, ends_RGND = (_split_groups(a, B) for a in (dt_RD, ends_RND))
    from_zeros = _sequential_chunks(dt_RGD, ends_RGND, A_ND, torch.zeros_like(ends_RGND[:, 0]))[-1]
    starts, last_BND = _chunk_initial_states(dt_RGD.sum(1), from_zeros, A_ND, initial_BND)
    states = _sequential_chunks(dt_RGD, ends_RGND, A_ND, starts)
    return torch.stack(states[:-1], 1).unflatten(0, (B, -1)).flatten(1, 2)[:, :M].flatten(0, 1), last_BND


def _split_groups(a_RD: Tensor, B: int) -> Tensor:
    """Return the chunks by group [B * groups, G, ...], the last group of a sample padded with zeros."""
    a_BMD = a_RD.unflatten(0, (B, -1))
    padded = F.pad(a_BMD, (0, 0) * (a_BMD.dim() - 2) + (0, -a_BMD.shape[1] % GROUP))
    return padded.unflatten(1, (-1, GROUP)).flatten(0, 1)


def _sequential_chunks(dt_BMD: Tensor, ends_BMND: Tensor, A_ND: Tensor, h_BND: Tensor) -> list[Tensor]:
    """Return the state before each chunk and after the last, chunk by chunk."""
    states = [h_BND]
    for dt_BD, end_BND in zip(dt_BMD.unbind(1), ends_BMND.unbind(1), strict=True):
        states.append(torch.addcmul(end_BND, (dt_BD[:, None] * A_ND).exp_(), states[-1]))
    return states
