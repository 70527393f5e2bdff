"""Letters in suffixes: B batch, T time, H heads, G key heads, J heads that share one of them, K width of a key,
V width of a value, C steps of a block of at most one segment.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Param, Recurrent, State, StateScope, TensorPlan, register
from archlab.components._per_sample import select_samples
from archlab.components.attention._shape import AttentionShape
from archlab.components.position._base import Position
from archlab.ops.dtypes import at_least_float32, without_autocast

from .softmax import SoftmaxAttention

Update: TypeAlias = Literal["delta", "linear"]
MIN_NORM = 1e-6


class Memory(NamedTuple):
    """The associative matrix M [B, G, K, V] of a compressive memory, and its normalization term n [B, G, K]."""

    values_BGKV: Tensor
    norms_BGK: Tensor

    def clone(self) -> Memory:
        """Return a copy, since no two entries of a state may share memory."""
        return Memory(*(x.clone() for x in self))


@register(
    "attention",
    "infini",
    params={"share": Param("vector", tensor="heads")},
    tensor=TensorPlan(counts=("shape.num_heads", "shape.num_kv_heads"), parts=("local",)),
)
class InfiniAttention(Recurrent):
    """Causal softmax inside a segment, and linear attention to all segments before it (arXiv:2404.07143).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  y = g A_mem + (1 - g) A_local (eq. 6), with a
    learned gate g per head.  With s = elu + 1, A_mem = s(q) M / s(q) n (eq. 3), or 0 from an empty memory; each key
    adds s(k) to n and s(k)^T (v - s(k) M / s(k) n) to M (eq. 5), or s(k)^T v if `linear` (eq. 4), once its segment
    ends.  Scale and position apply to the segment alone.
    State: the last segment_size keys and values; memory [B, G, K, V] and norms [B, G, K], and next_memory and
    next_norms, which include the current segment and replace them at its end, in at least float32.
    Deviations: s(.) n is at least 1e-6.

    Args:
        segment_size: Length of a segment in tokens.
        update: Rule by which a segment's values enter the memory: `delta` adds the part that the memory does not return
            yet for a key, `linear` adds the values.
    """

    _device_anchor: Tensor

    def __init__(
        self, shape: AttentionShape, position: Position, *, segment_size: Count = 2048, update: Update = "delta"
    ) -> None:
        super().__init__()
        self.segment_size, self.update, self.shape = segment_size, update, shape
        self.local = SoftmaxAttention(shape, position, window="chunk", window_size=segment_size)
        self.share = nn.Parameter(torch.empty(shape.num_heads))
        # One element and no scalar: Dynamo reads a float64 scalar on the CPU as a Python float, which it then
        # specializes by tracing the whole model a second time (torch 2.13).
        self.register_buffer("_device_anchor", torch.zeros(1), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize the gates to 1/2."""
        nn.init.zeros_(self.share)

    @property
    def score_size(self) -> float:
        """How scores grow with the width of a head, in the segment."""
        return self.shape.score_size

    def init_state(self, batch_size: int) -> State:
        """Return an empty memory and the segment's state."""
        sizes = (self.shape.num_kv_heads, self.shape.key_dim, self.shape.value_dim)
        values = at_least_float32(self._device_anchor).new_zeros(batch_size, *sizes)
        empty = Memory(values, values.new_zeros(values.shape[:-1]))
        return super().init_state(batch_size) | _state_entries(empty, empty.clone())

    def forward(
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Attend to the segment and to the memory, and mix both by the gates."""
        scope, old = StateScope(state), state or self.init_state(q_BTHK.shape[0])
        local_BTHV = scope("local", self.local, q_BTHK, k_BTGK, v_BTGV)
        q, k = (F.elu(at_least_float32(x)) + 1 for x in (q_BTHK, k_BTGK))
        q_BTGJK, v_BTGV = q.unflatten(2, (self.shape.num_kv_heads, -1)), at_least_float32(v_BTGV)
        with without_autocast(q):  # the sums stay in at least float32
            phase_B = None if state is None else old["local.position"] % self.segment_size
            memory_BTGJV, own = self._attend_memory(q_BTGJK, k, v_BTGV, old, phase_B)
        share_H1 = at_least_float32(self.share).sigmoid()[:, None]
        y_BTHV = memory_BTGJV.flatten(2, 3) * share_H1 + local_BTHV * (1 - share_H1)
        return y_BTHV.to(local_BTHV.dtype), scope.state | own

    def _attend_memory(
        self, q_BTGJK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State, phase_B: Tensor | None
    ) -> tuple[Tensor, State]:
        """Read and update the memory block by block.

        From position 0 (no phase) a block is a segment; in a stream, one of at most a segment may cross one boundary.
        """
        W, outputs = self.segment_size, []
        memory, upcoming = Memory(state["memory"], state["norms"]), Memory(state["next_memory"], state["next_norms"])
        for q, k, v in zip(*(x.split(W, dim=1) for x in (q_BTGJK, k_BTGK, v_BTGV)), strict=True):
            if phase_B is None:
                y_BCGJV, upcoming = self._read(q, memory), self._add(upcoming, memory, k, v)
                memory = upcoming if k.shape[1] == W else memory
            else:
                y_BCGJV, memory, upcoming = self._cross_boundary(q, k, v, memory, upcoming, phase_B)
                phase_B = (phase_B + k.shape[1]) % W
            outputs.append(y_BCGJV)
        return torch.cat(outputs, dim=1), _state_entries(memory, upcoming.clone())

    def _cross_boundary(
        self, q_BCGJK: Tensor, k_BCGK: Tensor, v_BCGV: Tensor, memory: Memory, upcoming: Memory, phase_B: Tensor
    ) -> tuple[Tensor, Memory, Memory]:
        """Return a block's outputs and both memories after it; `phase` steps of its segment came before.

        The boundary is at a different step in each sample: masks select the steps before and after it.
        """
        C, W = q_BCGJK.shape[1], self.segment_size
        later_BC11 = (phase_B[:, None] + torch.arange(C, device=phase_B.device) >= W)[..., None, None]
        y_BCGJV = self._read(q_BCGJK, memory)
        upcoming = self._add(upcoming, memory, k_BCGK.masked_fill(later_BC11, 0.0), v_BCGV)
        ends_B = phase_B + C >= W
        memory = Memory(*(select_samples(ends_B, new, old) for new, old in zip(upcoming, memory, strict=True)))
        if C > 1:  # a block of one step crosses no boundary
            y_BCGJV = torch.where(later_BC11[..., None], self._read(q_BCGJK, memory), y_BCGJV)
            upcoming = self._add(upcoming, memory, k_BCGK.masked_fill(~later_BC11, 0.0), v_BCGV)
        return y_BCGJV, memory, upcoming

    def _read(self, q_BCGJK: Tensor, memory: Memory) -> Tensor:
        """Return q M / q n (eq. 3), or 0 from an empty memory."""
        weight_BCGJ = torch.einsum("bcgjk,bgk->bcgj", q_BCGJK, memory.norms_BGK).clamp_min(MIN_NORM)
        return torch.einsum("bcgjk,bgkv->bcgjv", q_BCGJK, memory.values_BGKV) / weight_BCGJ[..., None]

    def _add(self, upcoming: Memory, memory: Memory, k_BCGK: Tensor, v_BCGV: Tensor) -> Memory:
        """Return the memory with more keys (eq. 4 and 5); a key of zeros adds nothing.

        The delta rule reads the memory before the segment, not the one that the segment's own keys are added to.
        """
        if self.update == "delta":
            v_BCGV = v_BCGV - self._read(k_BCGK.unsqueeze(3), memory).squeeze(3)
        values_BGKV = torch.einsum("bcgk,bcgv->bgkv", k_BCGK, v_BCGV)
        return Memory(upcoming.values_BGKV + values_BGKV, upcoming.norms_BGK + k_BCGK.sum(1))


def _state_entries(memory: Memory, upcoming: Memory) -> State:
    return {
        "memory": memory.values_BGKV,
        "norms": memory.norms_BGK,
        "next_memory": upcoming.values_BGKV,
        "next_norms": upcoming.norms_BGK,
    }
