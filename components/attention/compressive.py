"""Letters in suffixes: B batch, T time, H heads, G key heads, K width of a key, V width of a value, N segments or
blocks of them, R both B and N, C queries of a block, S keys of a memory and a segment, E groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from archlab import AUXILIARY_LOSS, Count, Index, Param, Recurrent, State, register
from archlab.components._ring import num_slots, reserve_rings, reserved, unroll_ring, update_ring
from archlab.components.attention._blocks import split_blocks
from archlab.components.attention._compression import Compression, KVCache, attend, reconstruction_loss
from archlab.components.attention._shape import BY_HEADS, AttentionShape
from archlab.components.position._base import Position
from archlab.ops.assertions import assert_async
from archlab.ops.dtypes import at_least_float32


class Sizes(NamedTuple):
    """Numbers of tokens of a segment and of the memory, and of groups in the compressed memory."""

    segment: int
    memory: int
    groups: int


@register(
    "attention",
    "compressive",
    params={
        "compression.*_weight": Param("hidden", tensor="heads", fan_in=2, fan_out=3),
        "compression.*_bias": Param("vector", tensor="heads"),
    },
    tensor=BY_HEADS,
)
class CompressiveAttention(Recurrent):
    """Softmax over a segment, a memory of the tokens before it, and a compressed memory before that (arXiv:1911.05507).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  A query sees its own segment up to itself, the
    memory_size tokens before the segment, and before these compressed_size groups of compression_rate tokens;
    positions count along that list.  With compressed_size 0, Transformer-XL (arXiv:1901.02860).
    State: position [B]; rings of the last memory_size + window_size keys and values, and of groups of them;
    auxiliary_loss [B], to which each token adds the mean square error of attention to the segment's oldest memories,
    those compressed at its end. That loss trains the compression, and the task's loss does not.
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

    @property
    def score_size(self) -> float:
        """How scores grow with the width of a head."""
        return self.shape.score_size

    def init_state(self, batch_size: int) -> State:
        """Return an empty memory at position 0."""
        state = {"position": torch.zeros(batch_size, dtype=torch.int64, device=self._device_anchor.device)}
        state |= _state_entries("", self._empty_cache(batch_size))
        if self.compressed_size:
            state |= _state_entries("compressed_", self._empty_cache(batch_size))
            state[AUXILIARY_LOSS] = at_least_float32(self._device_anchor).new_zeros(batch_size)
        return state

    def _empty_cache(self, batch_size: int) -> KVCache:
        widths = (self.shape.key_dim, self.shape.value_dim)
        return KVCache(*(self._device_anchor.new_zeros(batch_size, 0, self.shape.num_kv_heads, w) for w in widths))

    def reserve_state(self, state: State, num_tokens: int | None) -> State:
        """Return the state with memories that a stream of `num_tokens` tokens does not outgrow."""
        size, num_groups = self._memory_sizes()
        state = reserve_rings(state, {"keys": size, "values": size}, num_tokens)
        if not num_groups:
            return state
        complete = None if num_tokens is None else num_tokens // self.rate
        return reserve_rings(state, {"compressed_keys": num_groups, "compressed_values": num_groups}, complete)

    def _memory_sizes(self) -> tuple[int, int]:
        """Return the largest numbers of tokens and of groups in the state.

        Groups are compressed as soon as their tokens are complete, long before those leave the memory: the state also
        holds the groups of the memory and the segment.
        """
        num_tokens = self.memory_size + self.window_size
        return num_tokens, self.compressed_size + num_tokens // self.rate if self.compressed_size else 0

    def _sizes(self, num_tokens: int) -> Sizes:
        """Return the sizes for a stream of at most some number of tokens: smaller ones, if they make no difference.

        No token leaves a memory, and none is compressed, that is longer than the stream and a segment.
        """
        rate = self.rate if self.compressed_size else 1
        segment = min(self.window_size, _round_up(num_tokens, rate))
        memory = min(self.memory_size, _round_up(num_tokens, rate) + segment)
        return Sizes(segment, memory, min(self.compressed_size, _round_up(num_tokens, rate) // rate))

    def forward(
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Attend to the token's segment, its memory and its compressed memory; update all three."""
        B, T = q_BTHK.shape[:2]
        old = state or self.init_state(B)
        before = KVCache(*(unroll_ring(old[n], old["position"][:, None], old[n].shape[1]) for n in ("keys", "values")))
        near = before.append(KVCache(k_BTGK, v_BTGV))
        far = self._compress(near, old, T, aligned=state is None) if self.compressed_size else None
        attend_blocks = self._prefill if state is None else self._extend
        y_RCHV, loss_RC = attend_blocks(q_BTHK, near, far, old["position"])
        new = self._update_memory(k_BTGK, v_BTGV, state, old)
        if far:
            new |= self._update_groups(far, state, old, T)
            new[AUXILIARY_LOSS] = old[AUXILIARY_LOSS] + loss_RC.reshape(B, -1)[:, :T].sum(1)
        return y_RCHV.reshape(B, -1, *y_RCHV.shape[2:])[:, :T], new | reserved(state)

    def _compress(self, near: KVCache, old: State, T: int, *, aligned: bool) -> KVCache:
        """Return the groups of the state in time order, then those that T new tokens complete.

        Samples at different positions may complete one group more or less: the number of groups is the largest
        possible one, and each sample reads up to its own last group.
        """
        if aligned:
            members = near.detach()
        else:
            start_B1 = old["keys"].shape[1] - (old["position"] % self.rate)[:, None]
            members = near.detach().gather(start_B1, _round_up(T, self.rate))
        names, group_B1 = ("compressed_keys", "compressed_values"), (old["position"] // self.rate)[:, None]
        groups = KVCache(*(unroll_ring(old[name], group_B1, old[name].shape[1]) for name in names))
        return groups.append(self.compression(members))

    def _update_memory(self, k_BTGK: Tensor, v_BTGV: Tensor, state: State | None, old: State) -> State:
        """Return the position after the new tokens, and the ring of the last keys and values."""
        (size, _), T = self._memory_sizes(), k_BTGK.shape[1]
        slots = num_slots(state, old["keys"].shape[1], T, size)
        position_BT = old["position"][:, None] + torch.arange(T, device=k_BTGK.device)
        olds = (None, None) if state is None else (old["keys"], old["values"])
        rings = (update_ring(x, new, position_BT, size, slots) for x, new in zip(olds, (k_BTGK, v_BTGV), strict=True))
        return {"position": old["position"] + T} | _state_entries("", KVCache(*rings))

    def _update_groups(self, far: KVCache, state: State | None, old: State, T: int) -> State:
        """Return the ring of groups after new ones: where fewer are complete, the slots of the others hold zeros."""
        size, slots = self._memory_sizes()[1], old["compressed_keys"].shape[1]
        if reserved(state):
            fits = (((old["position"] + T) // self.rate <= slots) | (slots == size)).all()
            assert_async(fits, f"the stream exceeds the {slots} groups that room is reserved for")
        else:
            num_tokens = old["keys"].shape[1] + T
            # As many as all tokens make, as long as all are in the state; then as many as new ones may complete.
            most = num_tokens // self.rate if num_tokens <= self._memory_sizes()[0] else far.keys.shape[1]
            slots = max(slots, min(size, most))
        first_B1, last_B1 = (p[:, None] // self.rate for p in (old["position"], old["position"] + T))
        group_BE = last_B1 - 1 - (last_B1 - 1 - torch.arange(slots, device=first_B1.device)) % size
        index_BE = (group_BE - first_B1 + old["compressed_keys"].shape[1]).clamp(0, max(far.keys.shape[1] - 1, 0))
        samples_B1 = torch.arange(len(first_B1), device=first_B1.device)[:, None]
        rings = (x[samples_B1, index_BE].masked_fill((group_BE < 0)[..., None, None], 0.0) for x in far)
        return _state_entries("compressed_", KVCache(*rings))

    def _prefill(self, q_BTHK: Tensor, near: KVCache, far: KVCache | None, _: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from position 0, all segments in parallel."""
        T = q_BTHK.shape[1]
        W, M, P = sizes = self._sizes(T)
        C = min(T, W)
        q_RCHK = split_blocks(q_BTHK, C)
        count = q_RCHK.shape[0] // q_BTHK.shape[0]
        near = near.unfold(-M, M + C, C, count)
        if far:
            far = far.unfold(-M // self.rate - P, P + W // self.rate, W // self.rate, count)
        start_N = torch.arange(count, device=q_BTHK.device) * W
        return self._attend_all(q_RCHK, near, far, start_N.repeat(q_BTHK.shape[0]), start_N[:1], sizes)

    def _extend(self, q_BTHK: Tensor, near: KVCache, far: KVCache | None, position_B: Tensor) -> tuple[Tensor, Tensor]:
        """Attend in blocks of at most a segment, each of which may cross one boundary between segments.

        Where the boundary is differs by sample, so a block attends twice, from the segment of its first query and from
        the next one, and each query selects its own.
        """
        T = q_BTHK.shape[1]
        sizes = self._sizes(near.keys.shape[1])
        if far:  # groups go further back than the keys that are left
            sizes = sizes._replace(groups=min(self.compressed_size, far.keys.shape[1]))
        W = sizes.segment
        C = min(T, W)
        q_RCHK = split_blocks(q_BTHK, C)
        first_BN = position_B[:, None] + torch.arange(0, -(-T // C) * C, C, device=q_BTHK.device)
        # Of the lists: the position of the first token, and the number of the first group.
        base_B1 = position_B[:, None] + T - near.keys.shape[1]
        groups_B1 = position_B[:, None] // self.rate + _round_up(T, self.rate) // self.rate
        groups_B1 = groups_B1 - far.keys.shape[1] if far else groups_B1

        def attend_segment(offset: int) -> tuple[Tensor, Tensor]:
            start_BN = first_BN - first_BN % W + offset
            keys = near.gather(start_BN - sizes.memory - base_B1, sizes.memory + W)
            groups = None
            if far:
                oldest_BN = (start_BN - sizes.memory) // self.rate - sizes.groups
                groups = far.gather(oldest_BN - groups_B1, sizes.groups + W // self.rate)
            place_R = (first_BN - start_BN).flatten()
            return self._attend_all(q_RCHK, keys, groups, start_BN.flatten(), place_R, sizes)

        y_RCHV, loss_RC = attend_segment(0)
        if C > 1:  # a block of one query crosses no boundary
            next_RCHV, next_RC = attend_segment(W)
            is_next_RC = (first_BN % W).flatten()[:, None] + torch.arange(C, device=q_BTHK.device) >= W
            y_RCHV = torch.where(is_next_RC[..., None, None], next_RCHV, y_RCHV)
            loss_RC = torch.where(is_next_RC, next_RC, loss_RC)
        return y_RCHV, loss_RC

    def _attend_all(
        self, q_RCHK: Tensor, near: KVCache, far: KVCache | None, start_R: Tensor, place_R: Tensor, sizes: Sizes
    ) -> tuple[Tensor, Tensor]:
        """Return [R, C, H, V] and losses [R, C] of queries from `place` on in segments that start at `start`.

        The groups are the compressed memory of the segment, then those of the memories compressed at its end.
        """
        place_RC = place_R[:, None] + torch.arange(q_RCHK.shape[1], device=q_RCHK.device)
        key_S = torch.arange(near.keys.shape[1], device=q_RCHK.device) - sizes.memory
        seen_RCS = (key_S <= place_RC[..., None]) & (key_S >= -start_R[:, None, None])
        place_RC = place_RC + sizes.memory
        if not far:
            return self._softmax(q_RCHK, near, seen_RCS, place_RC), q_RCHK.new_zeros(())
        P = sizes.groups
        group_E = torch.arange(far.keys.shape[1], device=q_RCHK.device) - P
        valid_RE = group_E >= (sizes.memory - start_R[:, None]) // self.rate
        loss_RC = self._compression_loss(q_RCHK, near, far, valid_RE, sizes)
        entries = KVCache(*(x[:, :P] for x in far)).detach().append(near)
        seen_RCS = torch.cat((valid_RE[:, None, :P].expand(-1, seen_RCS.shape[1], -1), seen_RCS), dim=2)
        return self._softmax(q_RCHK, entries, seen_RCS, place_RC + P), loss_RC

    def _softmax(self, q_RCHK: Tensor, entries: KVCache, seen_RCS: Tensor, place_RC: Tensor) -> Tensor:
        """Return [R, C, H, V], attention to groups, memory and segment; `place` counts along this list."""
        key_1S = torch.arange(seen_RCS.shape[2], device=place_RC.device)[None]
        keys = self.position.rotate(entries.keys, key_1S)
        rotated = KVCache(keys, entries.values).repeat_heads(self.shape.num_heads)
        mask, bias = seen_RCS[:, None], self.position.bias(place_RC, key_1S)
        masked = mask if bias is None else bias.masked_fill(~mask, float("-inf")).to(q_RCHK.dtype)
        q_RHCK = self.position.rotate(q_RCHK, place_RC).transpose(1, 2)
        return attend(q_RHCK, rotated, masked, self.shape.scale).transpose(1, 2)

    def _compression_loss(self, q_RCHK: Tensor, near: KVCache, far: KVCache, valid_RE: Tensor, sizes: Sizes) -> Tensor:
        """Return the reconstruction loss [R, C] of the memories that are compressed at the end of the segment."""
        P = sizes.groups
        old = KVCache(*(x[:, : sizes.segment] for x in near)).repeat_heads(self.shape.num_heads)
        compressed = KVCache(*(x[:, P:] for x in far)).repeat_heads(self.shape.num_heads)
        return reconstruction_loss(q_RCHK.transpose(1, 2), old, compressed, valid_RE[:, P:], self.shape.scale)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _check_sizes(window_size: int, memory_size: int, rate: int) -> None:
    if window_size % rate or memory_size % rate:
        raise ValueError(
            f"compression_rate {rate} does not divide window_size {window_size} and memory_size {memory_size}"
        )
    if memory_size < window_size:
        raise ValueError(f"memory_size {memory_size} is less than window_size {window_size}: too short to compress")


def _state_entries(prefix: str, cache: KVCache) -> State:
    return {f"{prefix}keys": cache.keys, f"{prefix}values": cache.values}
