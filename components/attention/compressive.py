"""Letters in suffixes: B batch, T time, H heads, G key heads, K width of a key, V width of a value, N segments or
pieces of them, R both B and N, C queries of a piece, S keys of a memory and a segment, E groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archlab import AUXILIARY_LOSS, Count, Index, Recurrent, State, register
from archlab.components.attention._compression import Compression, KVCache, attend, reconstruction_loss
from archlab.components.position._base import Position
from archlab.ops.dtypes import at_least_float32

from ._window import _blocks


@register("attention", "compressive")
class CompressiveAttention(Recurrent):
    """Softmax over a segment, the memory before it and, made fewer, memories before that (arXiv:1911.05507).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  A query sees its own segment of window_size, up
    to itself, the memory_size tokens before the segment, and before these compressed_size groups of compression_rate
    tokens; positions count along that list.  With compressed_size 0, Transformer-XL (arXiv:1901.02860).
    State: position [B]; the last memory_size + window_size keys and values, and groups of them; auxiliary_loss [B],
    where each token adds the mean square of what compression changes in attention to the segment's oldest memories,
    those that leave at its end. That loss trains the compression, and the task's loss does not.
    Raises ValueError where compression_rate does not divide the sizes, or the memory is shorter than a segment.
    Deviations: keys and values are compressed, each head's apart, and not what they are projected from; the loss is
    of squares, its scores scaled; gradients flow into the memory.
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
        window_size: Count = 512,
        memory_size: Count = 512,
        compressed_size: Index = 512,
        compression_rate: Count = 2,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.widths = num_heads, num_kv_heads, (key_dim, value_dim)
        self.scale, self.position = scale, position
        self.window_size, self.memory_size, self.compressed_size = window_size, memory_size, compressed_size
        self.rate, self.exact_gradients = compression_rate, not compressed_size
        self.register_buffer("_like", torch.zeros(()), persistent=False)
        if compressed_size:
            _require_fit(window_size, memory_size, compression_rate)
            self.compression = Compression(num_kv_heads, key_dim, value_dim, compression_rate)

    def init_state(self, batch_size: int) -> State:
        """Return a stream with no token in it."""
        state = {"position": torch.zeros(batch_size, dtype=torch.int64, device=self._like.device)}
        num_kept, num_groups = self._sizes()
        state |= _kept("", self._nothing(batch_size, num_kept))
        if num_groups:
            state |= _kept("compressed_", self._nothing(batch_size, num_groups))
            state[AUXILIARY_LOSS] = at_least_float32(self._like).new_zeros(batch_size)
        return state

    def _nothing(self, batch_size: int, size: int) -> KVCache:
        return KVCache(*(self._like.new_zeros(batch_size, size, self.num_kv_heads, width) for width in self.widths))

    def _sizes(self) -> tuple[int, int]:
        """Return how many tokens are kept, and how many groups: those to be seen and those yet to leave the memory."""
        num_kept = self.memory_size + self.window_size
        return num_kept, self.compressed_size + num_kept // self.rate if self.compressed_size else 0

    def forward(
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Attend to what each token's segment has at hand, and keep what later ones may."""
        (B, T), (num_kept, num_groups) = q_BTHK.shape[:2], self._sizes()
        given = state or self.init_state(B)
        near = KVCache(k_BTGK, v_BTGV).append(KVCache(given["keys"], given["values"]))
        far = self._groups(near, given, T, aligned=state is None) if num_groups else None
        walk = self._from_start if state is None else self._streamed
        y_RCHV, loss_RC = walk(q_BTHK, near, far, given["position"])
        after = {"position": given["position"] + T} | _kept("", near.last(num_kept))
        if far:
            done_B = after["position"] // self.rate - given["position"] // self.rate
            after |= _kept("compressed_", far.take(done_B[:, None], num_groups))
            after[AUXILIARY_LOSS] = given[AUXILIARY_LOSS] + loss_RC.reshape(B, -1)[:, :T].sum(1)
        return y_RCHV.reshape(B, -1, *y_RCHV.shape[2:])[:, :T], after

    def _groups(self, near: KVCache, given: State, T: int, *, aligned: bool) -> KVCache:
        """Return the kept groups and those that T new tokens end; where samples differ, some have one too many."""
        num_kept, _ = self._sizes()
        if aligned:
            members = KVCache(*(x[:, num_kept:].detach() for x in near))
        else:
            begin_B1 = num_kept - (given["position"] % self.rate)[:, None]
            members = KVCache(*(x.detach() for x in near)).take(begin_B1, -(-T // self.rate) * self.rate)
        return self.compression(members).append(KVCache(given["compressed_keys"], given["compressed_values"]))

    def _from_start(self, q_BTHK: Tensor, near: KVCache, far: KVCache | None, _: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from the first token on, all segments at once."""
        W = self.window_size
        C = min(q_BTHK.shape[1], W)
        q_RCHK = _blocks(q_BTHK, C)
        count = q_RCHK.shape[0] // q_BTHK.shape[0]
        near = near.slide(W, self.memory_size + C, C, count)
        if far:
            far = far.slide(W // self.rate, self.compressed_size + W // self.rate, W // self.rate, count)
        begin_N = torch.arange(count, device=q_BTHK.device) * W
        return self._attend(q_RCHK, near, far, begin_N.repeat(q_BTHK.shape[0]), begin_N[:1])

    def _streamed(
        self, q_BTHK: Tensor, near: KVCache, far: KVCache | None, position_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Attend in pieces, each of which may hold one end of a segment, wherever the stream's samples are."""
        W = self.window_size
        C = min(q_BTHK.shape[1], W)
        q_RCHK = _blocks(q_BTHK, C)
        step_N = torch.arange(0, q_RCHK.shape[0] // q_BTHK.shape[0] * C, C, device=q_BTHK.device)
        first_BN = position_B[:, None] + step_N
        y_RCHV, loss_RC = self._beside(q_RCHK, near, far, position_B, first_BN, 0)
        if C > 1:  # the first query of a piece never comes after the end of a segment
            later_RCHV, later_RC = self._beside(q_RCHK, near, far, position_B, first_BN, W)
            ended_RC = (first_BN % W).flatten()[:, None] + torch.arange(C, device=q_BTHK.device) >= W
            y_RCHV = torch.where(ended_RC[..., None, None], later_RCHV, y_RCHV)
            loss_RC = torch.where(ended_RC, later_RC, loss_RC)
        return y_RCHV, loss_RC

    def _beside(
        self, q_RCHK: Tensor, near: KVCache, far: KVCache | None, position_B: Tensor, first_BN: Tensor, ahead: int
    ) -> tuple[Tensor, Tensor]:
        """Attend from the segment that a piece begins in, or from the next, `ahead` by a segment."""
        W, before_B1 = self.window_size, position_B[:, None]
        begin_BN = first_BN - first_BN % W + ahead
        near = near.take(begin_BN - before_B1 + W, self.memory_size + W)
        if far:
            newest_BN = (begin_BN + W) // self.rate - before_B1 // self.rate
            far = far.take(newest_BN, self.compressed_size + W // self.rate)
        return self._attend(q_RCHK, near, far, begin_BN.flatten(), (first_BN - begin_BN).flatten())

    def _attend(
        self, q_RCHK: Tensor, near: KVCache, far: KVCache | None, begin_R: Tensor, place_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return [R, C, H, V] and losses [R, C] of queries from `place` on in segments that begin at `begin`.

        The groups are those that the segment sees, and behind them those of the memories that leave at its end.
        """
        place_RC = place_R[:, None] + torch.arange(q_RCHK.shape[1], device=q_RCHK.device)
        key_S = torch.arange(near.keys.shape[1], device=q_RCHK.device) - self.memory_size
        seen_RCS = (key_S <= place_RC[..., None]) & (key_S >= -begin_R[:, None, None])
        if not far:
            return self._look(q_RCHK, near, seen_RCS, place_RC, 0), q_RCHK.new_zeros(())
        group_E = torch.arange(far.keys.shape[1], device=q_RCHK.device) - self.compressed_size
        some_RE = group_E >= (self.memory_size - begin_R[:, None]) // self.rate
        loss_RC = self._loss(q_RCHK, near, far, some_RE)
        P = self.compressed_size
        listed = near.append(KVCache(*(x[:, :P].detach() for x in far)))
        seen_RCS = torch.cat((some_RE[:, None, :P].expand(-1, seen_RCS.shape[1], -1), seen_RCS), dim=2)
        return self._look(q_RCHK, listed, seen_RCS, place_RC, P), loss_RC

    def _look(self, q_RCHK: Tensor, listed: KVCache, seen_RCS: Tensor, place_RC: Tensor, ahead: int) -> Tensor:
        """Return [R, C, H, V] from a list that `ahead` groups and the memory are the first of."""
        place_RC = place_RC + ahead + self.memory_size
        key_1S = torch.arange(seen_RCS.shape[2], device=place_RC.device)[None]
        turned = KVCache(self.position.rotate(listed.keys, key_1S), listed.values).heads(self.num_heads)
        mask, bias = seen_RCS[:, None], self.position.bias(place_RC, key_1S)
        shown = mask if bias is None else bias.masked_fill(~mask, float("-inf")).to(q_RCHK.dtype)
        q_RHCK = self.position.rotate(q_RCHK, place_RC).transpose(1, 2)
        return attend(q_RHCK, turned, shown, self.scale).transpose(1, 2)

    def _loss(self, q_RCHK: Tensor, near: KVCache, far: KVCache, some_RE: Tensor) -> Tensor:
        """Return what is lost [R, C] in attention to the memories that leave at the end of the segment."""
        P = self.compressed_size
        old = KVCache(*(x[:, : self.window_size] for x in near)).heads(self.num_heads)
        made = KVCache(*(x[:, P:] for x in far)).heads(self.num_heads)
        return reconstruction_loss(q_RCHK.transpose(1, 2), old, made, some_RE[:, P:], self.scale)


def _require_fit(window_size: int, memory_size: int, rate: int) -> None:
    if window_size % rate or memory_size % rate:
        raise ValueError(
            f"compression_rate {rate} does not divide window_size {window_size} and memory_size {memory_size}"
        )
    if memory_size < window_size:
        raise ValueError(f"memory_size {memory_size} is less than window_size {window_size}: too short to compress")


def _kept(prefix: str, entries: KVCache) -> State:
    return {f"{prefix}keys": entries.keys, f"{prefix}values": entries.values}
