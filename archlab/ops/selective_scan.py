"""The recurrence of selective state spaces: a few states a channel, whose decay the tokens choose.

Letters in suffixes: B batch, T time, D channels, N states of a channel, M blocks, C steps a block, G blocks a group,
R = B * M rows, one a block. In blocks channels stand last, as what is read one after the other.
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

BLOCK = 16
GROUP = 32


def selective_scan(
    x_BTD: Tensor, step_BTD: Tensor, rate_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor, state_BDN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(step_t rate) h_{t-1} + step_t x_t in_t; return y_t = h_t · out_t [B, T, D] and the last h.

    Steps are at least 0 and rates at most 0, so that no factor exceeds one. A faster body for the device is taken where
    one is installed; the plain one takes blocks of steps side by side. h is [B, D, N] in at least float32; y has
    x's dtype. Autograd keeps the state before every block of steps, not every state; it can be run once.
    """
    with without_autocast(x_BTD):
        x, step, rate, taken, given = (at_least_float32(a) for a in (x_BTD, step_BTD, rate_DN, in_BTN, out_BTN))
        first = _empty(x, rate) if state_BDN is None else at_least_float32(state_BDN)
        y_BTD, last_BDN = _body(x)(x, step, rate, taken, given, first)
        return y_BTD.to(x_BTD.dtype), last_BDN


def _body(x_BTD: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    if x_BTD.shape[1] == 1:
        return selective_scan_reference
    body = find_backend("selective_scan", x_BTD)
    return body if body is not None and x_BTD.dtype == torch.float32 else _in_blocks


def selective_scan_reference(
    x_BTD: Tensor, step_BTD: Tensor, rate_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor, state_BDN: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Do the same one step after the other: the definition, for tests."""
    x, step, rate, taken, given = (at_least_float32(a) for a in (x_BTD, step_BTD, rate_DN, in_BTN, out_BTN))
    h_BDN, outputs = _empty(x, rate) if state_BDN is None else at_least_float32(state_BDN), []
    for t in range(x.shape[1]):
        h_BDN = (step[:, t, :, None] * rate).exp() * h_BDN + (step * x)[:, t, :, None] * taken[:, t, None]
        outputs.append((h_BDN @ given[:, t, :, None])[..., 0])
    return torch.stack(outputs, 1).to(x_BTD.dtype), h_BDN


def _empty(x_BTD: Tensor, rate_DN: Tensor) -> Tensor:
    return x_BTD.new_zeros(x_BTD.shape[0], *rate_DN.shape)


def _in_blocks(
    x_BTD: Tensor, step_BTD: Tensor, rate_DN: Tensor, in_BTN: Tensor, out_BTN: Tensor, state_BDN: Tensor
) -> tuple[Tensor, Tensor]:
    B, T = x_BTD.shape[:2]
    timed = (_blocks(a, min(BLOCK, T)) for a in (step_BTD * x_BTD, step_BTD, in_BTN, out_BTN))
    y_CRD, last_BND = _blocks_in_turn(*timed, rate_DN.mT.contiguous(), state_BDN.mT.contiguous())
    y_BTD = y_CRD.unflatten(1, (B, -1)).permute(1, 2, 0, 3).flatten(1, 2)[:, :T]
    return y_BTD, last_BND.mT.clone(memory_format=torch.contiguous_format)


def _blocks(a_BTD: Tensor, C: int) -> Tensor:
    """Cut time into [C, R, D], the last block filled up with steps of zero, which change no state."""
    padded = F.pad(a_BTD, (0, 0, 0, -a_BTD.shape[1] % C))
    return padded.unflatten(1, (-1, C)).permute(2, 0, 1, 3).flatten(1, 2).contiguous()


@torch.compiler.allow_in_graph
def _blocks_in_turn(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run `_Blocks`, which a compiler traces with the gradients that it defines."""
    outputs: tuple[Tensor, Tensor] = _Blocks.apply(*inputs)
    return outputs


class _Blocks(torch.autograd.Function):
    """Take the steps of all blocks side by side, from zeros to learn where each block begins, and then from there.

    u = step x and step: [C, R, D], taken and given: [C, R, N], rate: [N, D], first: [B, N, D] -> y [C, R, D] and the
    last h [B, N, D]. The backward pass takes them again, and then in reverse with the gradients of the states.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, step: Tensor, taken: Tensor, given: Tensor, rate_ND: Tensor, first_BND: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs and the last state."""
        h_RND = rate_ND.new_zeros(u.shape[1], *rate_ND.shape)
        for j in range(len(u)):
            h_RND = _taken(u, taken, j).addcmul_(_factor(step, rate_ND, j), h_RND)
        starts_RND, last_BND = _chunk_initial_states(step.sum(0), h_RND, rate_ND, first_BND)
        h_RND, outputs = starts_RND, []
        for j in range(len(u)):
            h_RND = _taken(u, taken, j).addcmul_(_factor(step, rate_ND, j), h_RND)
            outputs.append(given[j, :, None] @ h_RND)
        ctx.save_for_backward(u, step, taken, given, rate_ND, starts_RND)
        return torch.stack(outputs).squeeze(2), last_BND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast_BND: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients; `carried` is that of a state through what comes after its own step."""
        u, step, taken, given, rate_ND, starts_RND = ctx.saved_tensors
        factors, states = [], [starts_RND]
        for j in range(len(u)):
            factors.append(_factor(step, rate_ND, j))
            states.append(_taken(u, taken, j).addcmul_(factors[j], states[j]))
        carried, dfirst_BND = _chunk_state_grads(dy, given, step, factors, rate_ND, dlast_BND)
        drate_RND, gradients = torch.zeros_like(carried), []
        for j in reversed(range(len(u))):
            dh = torch.addcmul(carried, given[j, :, :, None], dy[j, :, None])
            carried = factors[j].mul_(dh)
            dlog = carried * states[j]
            drate_RND.addcmul_(dlog, step[j, :, None])
            du, dstep = taken[j, :, None] @ dh, (dlog * rate_ND).sum(1, keepdim=True)
            gradients.append((du, dstep, dh @ u[j, :, :, None], states[j + 1] @ dy[j, :, :, None]))
        timed = (torch.stack(parts[::-1]).flatten(2) for parts in zip(*gradients, strict=True))
        return *timed, drate_RND.sum(0), dfirst_BND


def _factor(step_CRD: Tensor, rate_ND: Tensor, j: int) -> Tensor:
    return (step_CRD[j, :, None] * rate_ND).exp_()


def _taken(u_CRD: Tensor, taken_CRN: Tensor, j: int) -> Tensor:
    return taken_CRN[j, :, :, None] * u_CRD[j, :, None]


def _chunk_state_grads(
    dy: Tensor, given: Tensor, step: Tensor, factors: list[Tensor], rate_ND: Tensor, dlast_BND: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the state after each block through later ones, and that of the first state."""
    carried = torch.zeros_like(factors[0])
    for j in reversed(range(len(factors))):
        carried = torch.addcmul(carried, given[j, :, :, None], dy[j, :, None]).mul_(factors[j])
    total_RD, B = step.sum(0), len(dlast_BND)
    after_RND, dfirst_BND = _chunk_initial_states(_reversed(total_RD, B), _reversed(carried, B), rate_ND, dlast_BND)
    return _reversed(after_RND, B), dfirst_BND


def _reversed(a_RD: Tensor, B: int) -> Tensor:
    """Return the blocks of each sample, the last one first."""
    return a_RD.unflatten(0, (B, -1)).flip(1).flatten(0, 1)


def _chunk_initial_states(
    step_RD: Tensor, ends_RND: Tensor, rate_ND: Tensor, first_BND: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the state before each block [R, N, D] and the last, given where blocks that begin with zeros end."""
    B = len(first_BND)
    M = len(step_RD) // B
    if M <= GROUP:
        states = _sequential(step_RD.unflatten(0, (B, M)), ends_RND.unflatten(0, (B, M)), rate_ND, first_BND)
        return torch.stack(states[:-1], 1).flatten(0, 1), states[-1]
    step_RGD, ends_RGND = (_groups(a, B) for a in (step_RD, ends_RND))
    alone = _sequential(step_RGD, ends_RGND, rate_ND, torch.zeros_like(ends_RGND[:, 0]))[-1]
    starts, last_BND = _chunk_initial_states(step_RGD.sum(1), alone, rate_ND, first_BND)
    states = _sequential(step_RGD, ends_RGND, rate_ND, starts)
    return torch.stack(states[:-1], 1).unflatten(0, (B, -1)).flatten(1, 2)[:, :M].flatten(0, 1), last_BND


def _groups(a_RD: Tensor, B: int) -> Tensor:
    """Return the blocks by group [B * groups, G, ...], the last group of a sample filled up with zeros."""
    a_BMD = a_RD.unflatten(0, (B, -1))
    padded = F.pad(a_BMD, (0, 0) * (a_BMD.dim() - 2) + (0, -a_BMD.shape[1] % GROUP))
    return padded.unflatten(1, (-1, GROUP)).flatten(0, 1)


def _sequential(step_BMD: Tensor, ends_BMND: Tensor, rate_ND: Tensor, h_BND: Tensor) -> list[Tensor]:
    """Return the state before each block and after the last."""
    states = [h_BND]
    for step_BD, end_BND in zip(step_BMD.unbind(1), ends_BMND.unbind(1), strict=True):
        states.append(torch.addcmul(end_BND, (step_BD[:, None] * rate_ND).exp_(), states[-1]))
    return states
