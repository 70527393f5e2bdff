"""The mesa layer: the linear map fitted to all keys and values so far by least squares, applied to a query.

Letters in suffixes: B batch, T time, H heads, K width of a key, V width of a value, J = K + V, M chunks, C steps a
chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from archlab.ops._chunks import chunk_size, decay_matrix, split_chunks, suffix_sum
from archlab.ops.dtypes import at_least_float32, without_autocast
from archlab.ops.gated_linear import scan_states

REFINEMENT = 2  # steps from the exact residual, which halve the error in float32


def mesa(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    beta_BTH: Tensor,
    log_decay_BTH: Tensor,
    ridge_HK: Tensor,
    state_BHKJ: Tensor | None,
    num_steps: int,
) -> tuple[Tensor, Tensor]:
    """Return y_t = q_t (R_t + diag(ridge))⁻¹ G_t [B, T, H, V], and the last [R | G] in at least float32.

    R_t = exp(log_decay_t) R_{t-1} + beta_t k_t k_tᵀ and G_t = exp(log_decay_t) G_{t-1} + beta_t k_t v_tᵀ; the ridge is
    positive. y has v's dtype. The system is solved by `num_steps` steps of conjugate gradients, which are exact after K
    in exact arithmetic, and two of refinement. Gradients are those of the exact solution; autograd supports no second
    derivatives.
    """
    with without_autocast(q_BTHK):
        q, k, v, beta, log_decay, ridge = (
            at_least_float32(x)
            for x in (q_BTHK, k_BTHK, v_BTHV, beta_BTH[..., None], log_decay_BTH[..., None], ridge_HK)
        )
        pairs = torch.cat((k, v), -1)
        state = pairs.new_zeros(*k[:, 0].shape, pairs.shape[-1]) if state_BHKJ is None else at_least_float32(state_BHKJ)
        T, K = k.shape[1], k.shape[-1]
        size = chunk_size(T)
        q, k, pairs, beta, log_decay = (split_chunks(x, size) for x in (q, k, pairs, beta, log_decay))
        seen = log_decay.cumsum(-2)
        late_k = k * (beta * suffix_sum(log_decay).exp())
        starts, last = scan_states(late_k.mT @ pairs, seen[..., -1, :], state)
        weights = decay_matrix(log_decay[..., 0]) * beta.mT
        system = _System(k, weights, seen.exp(), starts[..., :K], ridge[:, None, None])
        x = _solve(q, system, num_steps)
        y = (x * system.seen) @ starts[..., K:] + ((x @ k.mT) * weights) @ pairs[..., K:]
        return y.flatten(2, 3)[:, :, :T].transpose(1, 2).to(v_BTHV.dtype), last


def mesa_reference(
    q_BTHK: Tensor,
    k_BTHK: Tensor,
    v_BTHV: Tensor,
    beta_BTH: Tensor,
    log_decay_BTH: Tensor,
    ridge_HK: Tensor,
    state_BHKJ: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Compute the same step by step, with a solver: the definition, for tests."""
    K, pairs = k_BTHK.shape[-1], torch.cat((k_BTHK, v_BTHV), -1)
    state = torch.zeros_like(k_BTHK[:, 0, :, :, None] * pairs[:, 0, :, None]) if state_BHKJ is None else state_BHKJ
    outputs = []
    for t in range(q_BTHK.shape[1]):
        added = (beta_BTH[:, t, :, None] * k_BTHK[:, t])[..., None] * pairs[:, t, :, None]
        state = log_decay_BTH[:, t, :, None, None].exp() * state + added
        x = torch.linalg.solve(state[..., :K] + torch.diag_embed(ridge_HK), q_BTHK[:, t])
        outputs.append((x[:, :, None] @ state[..., K:])[:, :, 0])
    return torch.stack(outputs, 1), state


class _System(NamedTuple):
    """R_t + diag(ridge) of the steps of each chunk: the products of keys before it, those of its own, and the ridge."""

    k: Tensor  # [B, H, M, C, K]
    weights: Tensor  # [B, H, M, C, C], beta and decay of each step's keys
    seen: Tensor  # [B, H, M, C, 1], decay from the start of the chunk
    start: Tensor  # [B, H, M, K, K]
    ridge: Tensor  # [H, 1, 1, K]

    def __matmul__(self, x: Tensor) -> Tensor:
        """Return the product with the vector of each step [B, H, M, C, K]."""
        return (x * self.seen) @ self.start + ((x @ self.k.mT) * self.weights) @ self.k + self.ridge * x


def _conjugate_gradients(system: _System, q: Tensor, num_steps: int) -> Tensor:
    """Return the solutions x of system @ x = q, of all steps at once."""
    x = _descend(system, q, num_steps)
    # The residual that steps update drifts from q - A x by rounding, which more of them do not mend.
    return x + _descend(system, q - system @ x, REFINEMENT)


def _descend(system: _System, q: Tensor, num_steps: int) -> Tensor:
    """Return the result of some steps of conjugate gradients from 0."""
    x, rest, direction = torch.zeros_like(q), q, q
    size = _dot(rest, rest)
    for _ in range(num_steps):
        image = system @ direction
        length = _divide(size, _dot(direction, image))
        x, rest = x + length * direction, rest - length * image
        before, size = size, _dot(rest, rest)
        direction = rest + _divide(size, before) * direction
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 where b is 0: the residual has vanished."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1.0), 0.0)


def _solve(q: Tensor, system: _System, num_steps: int) -> Tensor:
    return _solve_opaque(q, *system, num_steps)


@torch.compiler.allow_in_graph
def _solve_opaque(q: Tensor, k: Tensor, weights: Tensor, seen: Tensor, start: Tensor, ridge: Tensor, n: int) -> Tensor:
    """Run `_Solve` as one node of Dynamo's graph, which does not look inside: AOTAutograd traces both passes."""
    x: Tensor = _Solve.apply(q, k, weights, seen, start, ridge, n)
    return x


class _Solve(torch.autograd.Function):
    """x = A⁻¹ q, and its backward pass: with g = A⁻¹ dx, as A is symmetric, dq = g and dA = -g xᵀ.

    The gradients of the inputs of A are those of A x by them, times -g.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, weights: Tensor, seen: Tensor, start: Tensor, ridge: Tensor, num_steps: int
    ) -> Tensor:
        """Return the solutions."""
        x = _conjugate_gradients(_System(k, weights, seen, start, ridge), q, num_steps)
        ctx.save_for_backward(x, k, weights, seen, start, ridge)
        ctx.num_steps = num_steps
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors."""
        x, *parts = ctx.saved_tensors
        system = _System(*parts)
        dq = _conjugate_gradients(system, dx, ctx.num_steps)
        by_keys = x @ system.k.mT
        dscores = -dq @ system.k.mT
        dk = (by_keys * system.weights).mT @ -dq + (dscores * system.weights).mT @ x
        dseen = _dot(x @ system.start, -dq)
        dstart = (x * system.seen).mT @ -dq
        dridge = (x * -dq).sum((0, 2, 3))[:, None, None]
        return dq, dk, dscores * by_keys, dseen, dstart, dridge, None
