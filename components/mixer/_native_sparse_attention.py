"""Attention to compressed blocks of keys, to the keys of selected blocks, and to the latest keys, summed by gates.

Letters in suffixes: B batch, T new tokens, H heads, G key heads, S keys from the start of a block on, N blocks of them,
J selected blocks, M pieces of the tokens, R batch and pieces, K width of a key, V width of a value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab import State
from archlab.components._per_sample import gather_windows
from archlab.components._ring import num_slots, reserved, unroll_ring, update_ring
from archlab.components.attention._compression import KVCache
from archlab.components.attention._shape import AttentionShape
from archlab.components.attention._window import WindowedAttention
from archlab.components.position._base import Position
from archlab.ops.block_attention import block_attention
from archlab.ops.dtypes import at_least_float32

LOCAL_BLOCKS = 2  # a query's own block and the one before it are always selected, as the first of the stream is


class NativeSparseAttention(WindowedAttention):
    """The three branches of Native Sparse Attention, each weighed by a gate per head and token.

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V], gates: [B, T, H, 3] -> [B, T, H, V].  State: that of
    WindowedAttention.
    Raises ValueError where no block could be selected but those that always are, or where window_size is not a whole
    number of blocks.
    """

    def __init__(
        self,
        shape: AttentionShape,
        position: Position,
        *,
        block_size: int,
        num_selected: int,
        sliding_size: int,
        window_size: int,
    ) -> None:
        super().__init__(shape, position, window="sliding", window_size=window_size)
        if num_selected <= LOCAL_BLOCKS:
            raise ValueError(f"num_selected {num_selected} is less than the first block and the {LOCAL_BLOCKS} latest")
        if window_size % block_size:
            raise ValueError(f"window_size {window_size} is not divisible by block_size {block_size}")
        self.block_size, self.num_selected, self.sliding_size = block_size, num_selected, sliding_size

    def summarize(  # type: ignore[override]
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, gates_BTH3: Tensor
    ) -> State:
        """Return keys and values of a piece."""
        return super().summarize(q_BTHK, k_BTGK, v_BTGV)

    def forward(  # type: ignore[override]
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, gates_BTH3: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Attend in three ways, and store the new keys and values."""
        B, T = q_BTHK.shape[:2]
        start_B1 = state["position"][:, None] if state else torch.zeros(1, 1, dtype=torch.int64, device=q_BTHK.device)
        position_BT = start_B1 + torch.arange(T, device=q_BTHK.device)
        q_BTHK, k_BTGK = (self.position.rotate(x, position_BT) for x in (q_BTHK, k_BTGK))
        new = {"keys": k_BTGK, "values": v_BTGV}
        old = {name: state[name] if state else None for name in new}
        slots = num_slots(state, state["keys"].shape[1] if state else 0, T, self.window_size)
        rings = {name: update_ring(old[name], x, position_BT, self.window_size, slots) for name, x in new.items()}
        entries = KVCache(*(self._from_block(old[name], x, start_B1) for name, x in new.items()))
        before_B1 = start_B1 if state is None else start_B1 - state["keys"].shape[1]
        first_B1 = before_B1 + -before_B1 % self.block_size
        y_BTHV = self._branches(q_BTHK, entries, gates_BTH3, position_BT, first_B1)
        return y_BTHV, {"position": position_BT[:, -1].expand(B) + 1} | rings | reserved(state)

    def _from_block(self, ring_BS: Tensor | None, new_BT: Tensor, start_B1: Tensor) -> Tensor:
        """Return stored and new steps from the first start of a block on; no query sees earlier steps of a full ring.

        At the end the last step is repeated, which is later than all queries.
        """
        if ring_BS is None:
            return new_BT
        count = ring_BS.shape[1]
        steps_BS = torch.cat((unroll_ring(ring_BS, start_B1, count).to(new_BT.dtype), new_BT), dim=1)
        return gather_windows(steps_BS, (count - start_B1) % self.block_size, steps_BS.shape[1])

    def _branches(
        self,
        q_BTHK: Tensor,
        entries: KVCache,
        gates_BTH3: Tensor,
        position_BT: Tensor,
        first_B1: Tensor,
    ) -> Tensor:
        """Return the sum of the branches, of keys at positions from `first_B1` on, which is the start of a block."""
        blocks = _Blocks(position_BT, first_B1, -(-entries.keys.shape[1] // self.block_size), self.block_size)
        is_seen_BTN = blocks.are_latest(self.window_size // self.block_size)
        compressed_BHTV, weights_BHTN = self._attend_compressed(q_BTHK, entries, is_seen_BTN & blocks.are_complete())
        blocks_BGTJ = self._select(weights_BHTN.detach(), blocks, is_seen_BTN)
        outputs = (
            compressed_BHTV,
            self._attend_selected(q_BTHK, entries, blocks_BGTJ, position_BT, first_B1),
            self._latest(q_BTHK, entries, position_BT, first_B1),
        )
        gates_BHT3 = gates_BTH3.transpose(1, 2).to(entries.values.dtype)
        y_BHTV = (torch.stack(outputs, -1) * gates_BHT3[..., None, :]).sum(-1)
        return y_BHTV.transpose(1, 2)

    def _attend_selected(
        self, q_BTHK: Tensor, entries: KVCache, blocks_BGTJ: Tensor, position_BT: Tensor, first_B1: Tensor
    ) -> Tensor:
        """Return [B, H, T, V], attention to the keys of selected blocks."""
        key_BS = first_B1 + torch.arange(entries.keys.shape[1], device=q_BTHK.device)
        return block_attention(
            q_BTHK.transpose(1, 2),
            entries.keys.transpose(1, 2),
            entries.values.transpose(1, 2),
            blocks_BGTJ,
            position_BT - first_B1,
            self.position.bias(position_BT, key_BS),
            block_size=self.block_size,
            scale=self.shape.scale,
        )

    def _latest(self, q_BTHK: Tensor, entries: KVCache, position_BT: Tensor, first_B1: Tensor) -> Tensor:
        """Return [B, H, T, V], attention to the latest keys, in pieces of queries beside the keys that these see."""
        (B, T), S = q_BTHK.shape[:2], entries.keys.shape[1]
        size, count = (T, 1) if self.sliding_size >= T else (self.sliding_size, -(-T // self.sliding_size))
        # The last T steps are those of the queries, or up to a block before: the first one is the start of a block.
        start = S - T - (self.sliding_size - 1) - (self.block_size - 1 if S > T else 0)
        start = max(start, 0) if count == 1 else start
        width = S - T + size - start
        seen = KVCache(*(x[:, max(start, 0) :] for x in entries)).unfold(min(start, 0), width, size, count)
        piece_M1 = torch.arange(count, device=q_BTHK.device)[:, None] * size
        query_BMT = position_BT[:, :1, None] + piece_M1 + torch.arange(size, device=q_BTHK.device)
        key_BMS = first_B1[..., None] + start + piece_M1 + torch.arange(width, device=q_BTHK.device)
        query_RT, key_RS = (x.expand(B, -1, -1).flatten(0, 1) for x in (query_BMT, key_BMS))
        q_RTHK = F.pad(q_BTHK, (0, 0, 0, 0, 0, count * size - T)).reshape(-1, size, *q_BTHK.shape[2:])
        y_RHTV = self._attend(q_RTHK.transpose(1, 2), seen, query_RT, key_RS)
        return y_RHTV.transpose(1, 2).reshape(B, count * size, *y_RHTV.shape[1::2])[:, :T].transpose(1, 2)

    def _attend(self, q_RHTK: Tensor, seen: KVCache, query_RT: Tensor, key_RS: Tensor) -> Tensor:
        """Attend from queries to the latest keys before them, both at these positions."""
        first_block_RT = query_RT // self.block_size - self.window_size // self.block_size + 1
        oldest_RT = torch.maximum(query_RT - self.sliding_size + 1, first_block_RT * self.block_size).clamp(min=0)
        mask_RTS = (key_RS[:, None] >= oldest_RT[..., None]) & (key_RS[:, None] <= query_RT[..., None])
        mask, bias = mask_RTS[:, None], self.position.bias(query_RT, key_RS)
        masked = mask if bias is None else bias.masked_fill(~mask, float("-inf")).to(q_RHTK.dtype)
        k_RHSK, v_RHSV = seen.repeat_heads(self.shape.num_heads)
        return F.scaled_dot_product_attention(q_RHTK, k_RHSK, v_RHSV, masked, scale=self.shape.scale)

    def _attend_compressed(self, q_BTHK: Tensor, entries: KVCache, is_read_BTN: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs [B, H, T, V] of attention to the means of blocks, and the weights [B, H, T, N]."""
        whole = entries.keys.shape[1] // self.block_size * self.block_size
        means = KVCache(*(x[:, :whole].unflatten(1, (-1, self.block_size)).mean(2) for x in entries))
        q_BHTK, (k_BHNK, v_BHNV) = q_BTHK.transpose(1, 2), means.repeat_heads(self.shape.num_heads)
        is_read_B1TN = is_read_BTN[:, None, :, : k_BHNK.shape[2]]
        scores_BHTN = at_least_float32(q_BHTK @ k_BHNK.mT) * self.shape.scale
        # Not -inf, and zero afterwards: the first queries read no block, and have to have a finite gradient.
        scores_BHTN = scores_BHTN.masked_fill(~is_read_B1TN, torch.finfo(scores_BHTN.dtype).min)
        weights_BHTN = scores_BHTN.softmax(-1) * is_read_B1TN
        num_short = is_read_BTN.shape[-1] - k_BHNK.shape[2]
        return weights_BHTN.to(v_BHNV.dtype) @ v_BHNV, F.pad(weights_BHTN, (0, num_short))

    def _select(self, weights_BHTN: Tensor, blocks: _Blocks, is_seen_BTN: Tensor) -> Tensor:
        """Return the blocks that the heads that share keys read together [B, G, T, J], N where there are fewer."""
        importance_BGTN = weights_BHTN.unflatten(1, (-1, self.shape.group_size)).sum(2)
        importance_BGTN = importance_BGTN.masked_fill(blocks.are_fixed()[:, None], float("inf"))
        importance_BGTN = importance_BGTN.masked_fill(~is_seen_BTN[:, None], -1.0)
        # Stable: of equal blocks the earlier ones, whatever the capacity of keys.
        order_BGTJ = importance_BGTN.argsort(dim=-1, descending=True, stable=True)[..., : self.num_selected]
        is_there_BGTJ = is_seen_BTN[:, None].expand_as(importance_BGTN).gather(-1, order_BGTJ)
        return order_BGTJ.masked_fill(~is_there_BGTJ, is_seen_BTN.shape[-1])


class _Blocks:
    """Blocks of keys, the first of which starts at `first_B1`, as seen from queries at `position_BT`."""

    def __init__(self, position_BT: Tensor, first_B1: Tensor, num_blocks: int, size: int) -> None:
        self.position_BT1, self.size = position_BT[..., None], size
        self.block_B1N = (first_B1 // size + torch.arange(num_blocks, device=first_B1.device))[:, None]
        self.back_BTN = self.position_BT1 // size - self.block_B1N  # 0 for a query's own block

    def are_latest(self, count: int) -> Tensor:
        """Return which blocks are among so many latest ones, a query's own among them."""
        return (self.back_BTN >= 0) & (self.back_BTN < count) & (self.block_B1N >= 0)

    def are_complete(self) -> Tensor:
        """Return which blocks have no key after a query's own."""
        return (self.block_B1N + 1) * self.size <= self.position_BT1 + 1

    def are_fixed(self) -> Tensor:
        """Return which blocks are read whatever their keys, later ones among them."""
        return (self.block_B1N == 0) | (self.back_BTN < LOCAL_BLOCKS)
