"""The elementwise linear recurrence: h_t = a_t h_{t-1} + u_t for every channel, with a decay of every step's own.

Letters in suffixes: B batch, T time, D channels, M chunks, C steps a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from archlab.ops._chunks import CHUNK as TRACED_CHUNK
from archlab.ops.dtypes import at_least_float32, without_autocast

CHUNK = 16  # all chunks are scanned in parallel, step by step, and the chunks' ends by the same function


def linear_recurrence(u_BTD: Tensor, decay_BTD: Tensor, state_BD: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run h_t = a_t h_{t-1} + u_t; return every h [B, T, D] in u's dtype, and the last in at least float32.

    The decays a are from 0 to 1. Chunks are scanned in parallel; autograd saves the outputs and the decays, and
    supports no second derivatives.
    """
    with without_autocast(u_BTD):
        u, decay = at_least_float32(u_BTD), at_least_float32(decay_BTD)
        state = torch.zeros_like(u[:, 0]) if state_BD is None else at_least_float32(state_BD)
        h_BTD = _one_step(u, decay, state) if u.shape[1] == 1 else _scan_opaque(u, decay, state)
        return h_BTD.to(u_BTD.dtype), h_BTD[:, -1].clone()


def linear_recurrence_reference(
    u_BTD: Tensor, decay_BTD: Tensor, state_BD: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the same step by step: the definition, for tests."""
    u, decay = at_least_float32(u_BTD), at_least_float32(decay_BTD)
    h_BD, outputs = torch.zeros_like(u[:, 0]) if state_BD is None else at_least_float32(state_BD), []
    for t in range(u.shape[1]):
        h_BD = decay[:, t] * h_BD + u[:, t]
        outputs.append(h_BD)
    return torch.stack(outputs, 1).to(u_BTD.dtype), h_BD


def _one_step(u_B1D: Tensor, decay_B1D: Tensor, state_BD: Tensor) -> Tensor:
    return torch.addcmul(u_B1D, decay_B1D, state_BD[:, None])


@torch.compiler.allow_in_graph
def _scan_opaque(u_BTD: Tensor, decay_BTD: Tensor, state_BD: Tensor) -> Tensor:
    """Run `_Scan` as one node of Dynamo's graph, which does not look inside: AOTAutograd traces both passes."""
    h_BTD: Tensor = _Scan.apply(u_BTD, decay_BTD, state_BD)
    return h_BTD


class _Scan(torch.autograd.Function):
    """The recurrence over all of T, and its backward pass.

    With dh_t the gradient of h_t through all later steps, and dy_t that of the output,
        dh_t = dy_t + a_{t+1} dh_{t+1},
    which is the same recurrence from the last step to the first, whose decays are moved by one step. Then du_t = dh_t,
    da_t = dh_t h_{t-1}, and the gradient of the initial state is a_1 dh_1.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, decay: Tensor, state: Tensor) -> Tensor:
        """Return every h."""
        h = _scan(u, decay, state)
        ctx.save_for_backward(decay, h, state)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of all inputs."""
        decay, h, state = ctx.saved_tensors
        after = F.pad(decay[:, 1:], (0, 0, 0, 1))
        dh = _scan(dy.flip(1), after.flip(1), torch.zeros_like(state)).flip(1)
        before = torch.cat((state[:, None], h[:, :-1]), 1)
        return dh, dh * before, decay[:, 0] * dh[:, 0]


def _scan(u_BTD: Tensor, decay_BTD: Tensor, state_BD: Tensor) -> Tensor:
    """Return every h: each chunk's own part from zeros, and the state before it times the product of decays since."""
    T = u_BTD.shape[1]
    # A program that is traced for any number of tokens has one chunk, as its structure must not depend on the number.
    size = TRACED_CHUNK if isinstance(T, torch.SymInt) else min(CHUNK, T)
    u, decay = (_split_chunks(x, size) for x in (u_BTD, decay_BTD))
    own, kept = [u[:, :, 0]], [decay[:, :, 0]]
    for j in range(1, size):
        own.append(torch.addcmul(u[:, :, j], decay[:, :, j], own[-1]))
        kept.append(decay[:, :, j] * kept[-1])
    starts_BMD = _chunk_starts(own[-1], kept[-1], state_BD)
    parts = [torch.addcmul(part, factor, starts_BMD) for part, factor in zip(own, kept, strict=True)]
    return torch.stack(parts, 2).flatten(1, 2)[:, :T].contiguous()


def _chunk_starts(ends_BMD: Tensor, kept_BMD: Tensor, state_BD: Tensor) -> Tensor:
    """Return the state before each chunk, by the recurrence over chunks."""
    if ends_BMD.shape[1] == 1:
        return state_BD[:, None]
    states = _scan(ends_BMD[:, :-1], kept_BMD[:, :-1], state_BD)
    return torch.cat((state_BD[:, None], states), 1)


def _split_chunks(x_BTD: Tensor, size: int) -> Tensor:
    """Split time into chunks [B, M, size, D], the last one padded with zeros."""
    T = x_BTD.shape[1]
    # Without a modulus where there is one chunk: its size is then known where T is not, in a program that is traced.
    return F.pad(x_BTD, (0, 0, 0, size - T if size >= T else -T % size)).unflatten(1, (-1, size))
