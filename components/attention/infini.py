"""Letters in suffixes: B batch, T time, H heads, G key heads, J heads that share one of them, K width of a key,
V width of a value, C steps of a piece of at most one segment.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Recurrent, State, StateScope, register
from archlab.components._per_sample import where
from archlab.components.position._base import Position
from archlab.ops.dtypes import at_least_float32, without_autocast

from .softmax import SoftmaxAttention

Update: TypeAlias = Literal["delta", "linear"]
LEAST = 1e-6


class Sums(NamedTuple):
    """What keys have been summed to: their values, and themselves."""

    values_BGKV: Tensor
    norms_BGK: Tensor


@register("attention", "infini")
class InfiniAttention(Recurrent):
    """Causal softmax inside a segment, and linear attention to all segments before it (arXiv:2404.07143).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  y = g A_mem + (1 - g) A_local, g a learned share
    of each head.  With s = elu + 1, A_mem = s(q) M / s(q) n, or 0 from an empty memory; each key adds s(k) to n and
    s(k)^T (v - s(k) M / s(k) n) to M, or s(k)^T v if `linear`, once its segment ends.  Scale and position serve the
    segment alone.  State: the last segment_size keys and values; memory [B, G, K, V] and norms [B, G, K] that are
    read, and the same with the running segment's keys added, in at least float32.
    Deviations: s(.) n counts as at least 1e-6.
    """

    _like: Tensor

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int,
        key_dim: int,
        value_dim: int,
        scale: float,
        position: Position,
        *,
        segment_size: Count = 2048,
        update: Update = "delta",
    ) -> None:
        super().__init__()
        self.segment_size, self.update = segment_size, update
        self.sizes = (num_kv_heads, key_dim, value_dim)
        widths = (num_heads, num_kv_heads, key_dim, value_dim)
        self.local = SoftmaxAttention(*widths, scale, position, window="chunk", window_size=segment_size)
        self.share = nn.Parameter(torch.empty(num_heads))
        self.register_buffer("_like", torch.zeros(()), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin with equal shares."""
        nn.init.zeros_(self.share)

    def init_state(self, batch_size: int) -> State:
        """Return an empty memory beside the segment's own state."""
        memory = at_least_float32(self._like).new_zeros(batch_size, *self.sizes)
        empty = Sums(memory, memory.new_zeros(memory.shape[:-1]))
        return super().init_state(batch_size) | _kept(empty, Sums(*(x.clone() for x in empty)))

    def forward(
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Attend to the segment and to the memory, and mix what was found."""
        stream, given = StateScope(state), state or self.init_state(q_BTHK.shape[0])
        local_BTHV = stream("local", self.local, q_BTHK, k_BTGK, v_BTGV)
        q, k = (F.elu(at_least_float32(x)) + 1 for x in (q_BTHK, k_BTGK))
        q_BTGJK, v_BTGV = q.unflatten(2, (self.sizes[0], -1)), at_least_float32(v_BTGV)
        with without_autocast(q):
            phase_B = None if state is None else given["local.position"] % self.segment_size
            found_BTGJV, own = self._recall(q_BTGJK, k, v_BTGV, given, phase_B)
        share_H1 = at_least_float32(self.share).sigmoid()[:, None]
        y_BTHV = found_BTGJV.flatten(2, 3) * share_H1 + local_BTHV * (1 - share_H1)
        return y_BTHV.to(local_BTHV.dtype), stream.state | own

    def _recall(
        self, q_BTGJK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State, phase_B: Tensor | None
    ) -> tuple[Tensor, State]:
        """Read the memory in pieces; each is a segment, or, wherever a stream's samples are, may hold one's end."""
        W, found = self.segment_size, []
        memory, coming = Sums(state["memory"], state["norms"]), Sums(state["next_memory"], state["next_norms"])
        for q, k, v in zip(*(x.split(W, dim=1) for x in (q_BTGJK, k_BTGK, v_BTGV)), strict=True):
            if phase_B is None:
                y_BCGJV, coming = self._read(q, memory), self._added(coming, memory, k, v)
                memory = coming if k.shape[1] == W else memory
            else:
                y_BCGJV, memory, coming = self._across(q, k, v, memory, coming, phase_B)
                phase_B = (phase_B + k.shape[1]) % W
            found.append(y_BCGJV)
        return torch.cat(found, dim=1), _kept(memory, Sums(*(x.clone() for x in coming)))

    def _across(
        self, q_BCGJK: Tensor, k_BCGK: Tensor, v_BCGV: Tensor, memory: Sums, coming: Sums, phase_B: Tensor
    ) -> tuple[Tensor, Sums, Sums]:
        """Return what a piece reads, and both memories after it; `phase` steps of its segment came before."""
        C, W = q_BCGJK.shape[1], self.segment_size
        later_BC11 = (phase_B[:, None] + torch.arange(C, device=phase_B.device) >= W)[..., None, None]
        y_BCGJV = self._read(q_BCGJK, memory)
        coming = self._added(coming, memory, k_BCGK.masked_fill(later_BC11, 0.0), v_BCGV)
        ends_B = phase_B + C >= W
        memory = Sums(*(where(ends_B, new, old) for new, old in zip(coming, memory, strict=True)))
        if C > 1:  # the first step of a piece never comes after the end of a segment
            y_BCGJV = torch.where(later_BC11[..., None], self._read(q_BCGJK, memory), y_BCGJV)
            coming = self._added(coming, memory, k_BCGK.masked_fill(~later_BC11, 0.0), v_BCGV)
        return y_BCGJV, memory, coming

    def _read(self, q_BCGJK: Tensor, memory: Sums) -> Tensor:
        """Return the mean of the remembered values by the queries' weights, or 0 where nothing is remembered."""
        weight_BCGJ = torch.einsum("bcgjk,bgk->bcgj", q_BCGJK, memory.norms_BGK).clamp_min(LEAST)
        return torch.einsum("bcgjk,bgkv->bcgjv", q_BCGJK, memory.values_BGKV) / weight_BCGJ[..., None]

    def _added(self, coming: Sums, memory: Sums, k_BCGK: Tensor, v_BCGV: Tensor) -> Sums:
        """Return sums with more keys in them; a key of zeros adds nothing."""
        if self.update == "delta":
            v_BCGV = v_BCGV - self._read(k_BCGK.unsqueeze(3), memory).squeeze(3)
        values_BGKV = torch.einsum("bcgk,bcgv->bgkv", k_BCGK, v_BCGV)
        return Sums(coming.values_BGKV + values_BGKV, coming.norms_BGK + k_BCGK.sum(1))


def _kept(memory: Sums, coming: Sums) -> State:
    return {
        "memory": memory.values_BGKV,
        "norms": memory.norms_BGK,
        "next_memory": coming.values_BGKV,
        "next_norms": coming.norms_BGK,
    }
