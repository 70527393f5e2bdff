"""Letters in suffixes: B batch, T time, H heads, G key heads, K width of a key, V width of a value, N segments or
blocks of them, R both B and N, C queries of a block, S keys of a memory and a segment, E groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archlab import AUXILIARY_LOSS, Count, Index, Recurrent, State, register
from archlab.components.attention._compression import Compression, KVCache, attend, reconstruction_loss
from archlab.components.attention._shape import AttentionShape
from archlab.components.position._base import Position
from archlab.ops.dtypes import at_least_float32

from ._window import _split_blocks


@register("attention", "compressive")
class CompressiveAttention(Recurrent):
    """Softmax over a segment, a memory of the tokens before it, and a compressed memory before that (arXiv:1911.05507).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  A query sees its own segment up to itself, the
    memory_size tokens before the segment, and before these compressed_size groups of compression_rate tokens;
    positions count along that list.  With compressed_size 0, Transformer-XL (arXiv:1901.02860).
    State: position [B]; the last memory_size + window_size keys and values, and groups of them; auxiliary_loss [B],
    to which each token adds the mean square error of attention to the segment's oldest memories, those compressed at
    its end. That loss trains the compression, and the task's loss does not.
    Raises ValueError where compression_rate does not divide the sizes, or the memory is shorter than a segment.
    Deviations: keys and values are compressed per head, rather than the hidden states that they are projected from;
    the reconstruction loss is a mean square with scaled scores; gradients flow into the memory.

    Args:
        window_size: Length of a segment in tokens.
        memory_size: Number of uncompressed tokens before the segment that a query sees.
        compressed_size: Number of compressed groups before the memory that a query sees; 0 for no compressed memory.
        compression_rate: Number of tokens that are compressed to one group.
    """

    _device_anchor: Tensor

    def __init__(
        self,
        shape: AttentionShape,
        position: Position,
        *,
        window_size: Count = 512,
        memory_size: Count = 512,
        compressed_size: Index = 512,
        compression_rate: Count = 2,
    ) -> None:
        super().__init__()
        self.shape, self.position = shape, position
        self.window_size, self.memory_size, self.compressed_size = window_size, memory_size, compressed_size
        self.rate = compression_rate
        self.exact_gradients = not compressed_size  # the compressed memory is detached from the task's loss
        # Without compression there is no parameter, so no other tensor that .to(device, dtype) moves.
        # One element and no scalar: Dynamo reads a float64 scalar on the CPU as a Python float, which it then
        # specializes by tracing the whole model a second time (torch 2.13).
        self.register_buffer("_device_anchor", torch.zeros(1), persistent=False)
        if compressed_size:
            _check_sizes(window_size, memory_size, compression_rate)
            self.compression = Compression(shape.num_kv_heads, shape.key_dim, shape.value_dim, compression_rate)

    def init_state(self, batch_size: int) -> State:
        """Return an empty memory at position 0."""
        state = {"position": torch.zeros(batch_size, dtype=torch.int64, device=self._device_anchor.device)}
        num_tokens, num_groups = self._memory_sizes()
        state |= _state_entries("", self._empty_cache(batch_size, num_tokens))
        if num_groups:
            state |= _state_entries("compressed_", self._empty_cache(batch_size, num_groups))
            state[AUXILIARY_LOSS] = at_least_float32(self._device_anchor).new_zeros(batch_size)
        return state

    def _empty_cache(self, batch_size: int, size: int) -> KVCache:
        widths = (self.shape.key_dim, self.shape.value_dim)
        return KVCache(*(self._device_anchor.new_zeros(batch_size, size, self.shape.num_kv_heads, w) for w in widths))

    def _memory_sizes(self) -> tuple[int, int]:
        """Return the numbers of tokens and of groups in the state.

        Groups are compressed as soon as their tokens are complete, long before those leave the memory: the state also
        holds the groups of the memory and the segment.
        """
        num_tokens = self.memory_size + self.window_size
        return num_tokens, self.compressed_size + num_tokens // self.rate if self.compressed_size else 0

    def forward(
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Attend to the token's segment, its memory and its compressed memory; update all three."""
        (B, T), (num_tokens, num_groups) = q_BTHK.shape[:2], self._memory_sizes()
        old = state or self.init_state(B)
        near = KVCache(old["keys"], old["values"]).append(KVCache(k_BTGK, v_BTGV))
        far = self._compress(near, old, T, aligned=state is None) if num_groups else None
        attend_blocks = self._prefill if state is None else self._extend
        y_RCHV, loss_RC = attend_blocks(q_BTHK, near, far, old["position"])
        new = {"position": old["position"] + T} | _state_entries("", near.last(num_tokens))
        if far:
            num_new_B = new["position"] // self.rate - old["position"] // self.rate
            new |= _state_entries("compressed_", far.gather(num_new_B[:, None], num_groups))
            new[AUXILIARY_LOSS] = old[AUXILIARY_LOSS] + loss_RC.reshape(B, -1)[:, :T].sum(1)
        return y_RCHV.reshape(B, -1, *y_RCHV.shape[2:])[:, :T], new

    def _compress(self, near: KVCache, old: State, T: int, *, aligned: bool) -> KVCache:
        """Return the groups of the state and those that T new tokens complete.

        Samples at different positions may complete one group more or less: the number of groups is the largest
        possible one, and forward cuts each sample at its own number.
        """
        num_tokens, _ = self._memory_sizes()
        if aligned:
            members = KVCache(*(x[:, num_tokens:] for x in near)).detach()
        else:
            start_B1 = num_tokens - (old["position"] % self.rate)[:, None]
            members = near.detach().gather(start_B1, -(-T // self.rate) * self.rate)
        return KVCache(old["compressed_keys"], old["compressed_values"]).append(self.compression(members))

    def _prefill(self, q_BTHK: Tensor, near: KVCache, far: KVCache | None, _: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from position 0, all segments in parallel."""
        W = self.window_size
        C = min(q_BTHK.shape[1], W)
        q_RCHK = _split_blocks(q_BTHK, C)
        count = q_RCHK.shape[0] // q_BTHK.shape[0]
        near = near.unfold(W, self.memory_size + C, C, count)
        if far:
            far = far.unfold(W // self.rate, self.compressed_size + W // self.rate, W // self.rate, count)
        start_N = torch.arange(count, device=q_BTHK.device) * W
        return self._attend_all(q_RCHK, near, far, start_N.repeat(q_BTHK.shape[0]), start_N[:1])

    def _extend(self, q_BTHK: Tensor, near: KVCache, far: KVCache | None, position_B: Tensor) -> tuple[Tensor, Tensor]:
        """Attend in blocks of at most a segment, each of which may cross one boundary between segments.

        Where the boundary is differs by sample, so a block attends twice, from the segment of its first query and from
        the next one, and each query selects its own.
        """
        W = self.window_size
        C = min(q_BTHK.shape[1], W)
        q_RCHK = _split_blocks(q_BTHK, C)
        step_N = torch.arange(0, q_RCHK.shape[0] // q_BTHK.shape[0] * C, C, device=q_BTHK.device)
        first_BN = position_B[:, None] + step_N
        y_RCHV, loss_RC = self._attend_segment(q_RCHK, near, far, position_B, first_BN, 0)
        if C > 1:  # a block of one query crosses no boundary
            next_RCHV, next_RC = self._attend_segment(q_RCHK, near, far, position_B, first_BN, W)
            is_next_RC = (first_BN % W).flatten()[:, None] + torch.arange(C, device=q_BTHK.device) >= W
            y_RCHV = torch.where(is_next_RC[..., None, None], next_RCHV, y_RCHV)
            loss_RC = torch.where(is_next_RC, next_RC, loss_RC)
        return y_RCHV, loss_RC

    def _attend_segment(
        self, q_RCHK: Tensor, near: KVCache, far: KVCache | None, position_B: Tensor, first_BN: Tensor, offset: int
    ) -> tuple[Tensor, Tensor]:
        """Attend from the segment of a block's first query, or with an offset of a segment from the next one."""
        W, before_B1 = self.window_size, position_B[:, None]
        start_BN = first_BN - first_BN % W + offset
        near = near.gather(start_BN - before_B1 + W, self.memory_size + W)
        if far:
            newest_BN = (start_BN + W) // self.rate - before_B1 // self.rate
            far = far.gather(newest_BN, self.compressed_size + W // self.rate)
        return self._attend_all(q_RCHK, near, far, start_BN.flatten(), (first_BN - start_BN).flatten())

    def _attend_all(
        self, q_RCHK: Tensor, near: KVCache, far: KVCache | None, start_R: Tensor, place_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return [R, C, H, V] and losses [R, C] of queries from `place` on in segments that start at `start`.

        The groups are the compressed memory of the segment, then those of the memories compressed at its end.
        """
        place_RC = place_R[:, None] + torch.arange(q_RCHK.shape[1], device=q_RCHK.device)
        key_S = torch.arange(near.keys.shape[1], device=q_RCHK.device) - self.memory_size
        seen_RCS = (key_S <= place_RC[..., None]) & (key_S >= -start_R[:, None, None])
        if not far:
            return self._softmax(q_RCHK, near, seen_RCS, place_RC, 0), q_RCHK.new_zeros(())
        group_E = torch.arange(far.keys.shape[1], device=q_RCHK.device) - self.compressed_size
        valid_RE = group_E >= (self.memory_size - start_R[:, None]) // self.rate
        loss_RC = self._compression_loss(q_RCHK, near, far, valid_RE)
        P = self.compressed_size
        entries = KVCache(*(x[:, :P] for x in far)).detach().append(near)
        seen_RCS = torch.cat((valid_RE[:, None, :P].expand(-1, seen_RCS.shape[1], -1), seen_RCS), dim=2)
        return self._softmax(q_RCHK, entries, seen_RCS, place_RC, P), loss_RC

    def _softmax(self, q_RCHK: Tensor, entries: KVCache, seen_RCS: Tensor, place_RC: Tensor, num_groups: int) -> Tensor:
        """Return [R, C, H, V], attention to `num_groups` groups, the memory and the segment, in this order."""
        place_RC = place_RC + num_groups + self.memory_size
        key_1S = torch.arange(seen_RCS.shape[2], device=place_RC.device)[None]
        keys = self.position.rotate(entries.keys, key_1S)
        rotated = KVCache(keys, entries.values).repeat_heads(self.shape.num_heads)
        mask, bias = seen_RCS[:, None], self.position.bias(place_RC, key_1S)
        masked = mask if bias is None else bias.masked_fill(~mask, float("-inf")).to(q_RCHK.dtype)
        q_RHCK = self.position.rotate(q_RCHK, place_RC).transpose(1, 2)
        return attend(q_RHCK, rotated, masked, self.shape.scale).transpose(1, 2)

    def _compression_loss(self, q_RCHK: Tensor, near: KVCache, far: KVCache, valid_RE: Tensor) -> Tensor:
        """Return the reconstruction loss [R, C] of the memories that are compressed at the end of the segment."""
        P = self.compressed_size
        old = KVCache(*(x[:, : self.window_size] for x in near)).repeat_heads(self.shape.num_heads)
        compressed = KVCache(*(x[:, P:] for x in far)).repeat_heads(self.shape.num_heads)
        return reconstruction_loss(q_RCHK.transpose(1, 2), old, compressed, valid_RE[:, P:], self.shape.scale)


def _check_sizes(window_size: int, memory_size: int, rate: int) -> None:
    if window_size % rate or memory_size % rate:
        raise ValueError(
            f"compression_rate {rate} does not divide window_size {window_size} and memory_size {memory_size}"
        )
    if memory_size < window_size:
        raise ValueError(f"memory_size {memory_size} is less than window_size {window_size}: too short to compress")


def _state_entries(prefix: str, cache: KVCache) -> State:
    return {f"{prefix}keys": cache.keys, f"{prefix}values": cache.values}
