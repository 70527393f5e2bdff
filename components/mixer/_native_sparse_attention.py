"""Attention to compressed blocks of keys, to the keys of selected blocks, and to the latest keys, summed by gates.

Letters in suffixes: B batch, T new tokens, H heads, G key heads, S keys from the start of a block on, N blocks of them,
K width of a key, V width of a value.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab import State
from archlab.components._per_sample import gather_windows
from archlab.components._ring import num_slots, reserved, unroll_ring, update_ring
from archlab.components.attention._shape import AttentionShape
from archlab.components.attention._window import WindowedAttention
from archlab.components.position._base import Position
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
        keys, values = (self._from_block(old[name], x, start_B1) for name, x in new.items())
        before_B1 = start_B1 if state is None else start_B1 - state["keys"].shape[1]
        first_B1 = before_B1 + -before_B1 % self.block_size
        y_BTHV = self._branches(q_BTHK, keys, values, gates_BTH3, position_BT, first_B1)
        return y_BTHV, {"position": position_BT[:, -1].expand(B) + 1} | rings | reserved(state)

    def _from_block(self, ring_BS: Tensor | None, new_BT: Tensor, start_B1: Tensor) -> Tensor:
        """Return stored and new steps from the first start of a block on; no query sees what a full ring has before it.

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
        k_BSGK: Tensor,
        v_BSGV: Tensor,
        gates_BTH3: Tensor,
        position_BT: Tensor,
        first_B1: Tensor,
    ) -> Tensor:
        """Return the sum of the branches, of keys at positions from `first_B1` on, which is the start of a block."""
        steps_S, q_BHTK = torch.arange(k_BSGK.shape[1], device=q_BTHK.device), q_BTHK.transpose(1, 2)
        key_BS, block_S = first_B1 + steps_S, steps_S // self.block_size
        blocks = _Blocks(position_BT, first_B1, -(-k_BSGK.shape[1] // self.block_size), self.block_size)
        is_seen_BTN = blocks.are_latest(self.window_size // self.block_size)
        compressed_BHTV, weights_BHTN = self._compressed(q_BHTK, k_BSGK, v_BSGV, is_seen_BTN & blocks.are_complete())
        selected_BGTN = self._select(weights_BHTN.detach(), blocks, is_seen_BTN)
        selected_BHTS = selected_BGTN.repeat_interleave(self.shape.group_size, dim=1)[..., block_S]
        age_BTS = position_BT[..., None] - key_BS[:, None]
        is_latest_BTS = is_seen_BTN[..., block_S] & (age_BTS < self.sliding_size)
        masks = ((age_BTS >= 0)[:, None] & seen for seen in (selected_BHTS, is_latest_BTS[:, None]))
        k_BHSK, v_BHSV, bias = self._repeat_kv(k_BSGK), self._repeat_kv(v_BSGV), self.position.bias(position_BT, key_BS)
        outputs = (compressed_BHTV, *(self._attend(q_BHTK, k_BHSK, v_BHSV, mask, bias) for mask in masks))
        gates_BHT3 = gates_BTH3.transpose(1, 2).to(v_BSGV.dtype)
        y_BHTV = (torch.stack(outputs, -1) * gates_BHT3[..., None, :]).sum(-1)
        return y_BHTV.transpose(1, 2)

    def _attend(self, q_BHTK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        masked = mask if bias is None else bias.masked_fill(~mask, float("-inf")).to(q_BHTK.dtype)
        return F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSV, masked, scale=self.shape.scale)

    def _compressed(self, q_BHTK: Tensor, k_BSGK: Tensor, v_BSGV: Tensor, is_read_BTN: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs [B, H, T, V] of attention to the means of blocks, and the weights [B, H, T, N]."""
        whole = k_BSGK.shape[1] // self.block_size * self.block_size
        means = (x[:, :whole].unflatten(1, (-1, self.block_size)).mean(2) for x in (k_BSGK, v_BSGV))
        k_BHNK, v_BHNV = (self._repeat_kv(x) for x in means)
        is_read_B1TN = is_read_BTN[:, None, :, : k_BHNK.shape[2]]
        scores_BHTN = at_least_float32(q_BHTK @ k_BHNK.mT) * self.shape.scale
        # Not -inf, and zero afterwards: the first queries read no block, and have to have a finite gradient.
        scores_BHTN = scores_BHTN.masked_fill(~is_read_B1TN, torch.finfo(scores_BHTN.dtype).min)
        weights_BHTN = scores_BHTN.softmax(-1) * is_read_B1TN
        num_short = is_read_BTN.shape[-1] - k_BHNK.shape[2]
        return weights_BHTN.to(v_BHNV.dtype) @ v_BHNV, F.pad(weights_BHTN, (0, num_short))

    def _select(self, weights_BHTN: Tensor, blocks: _Blocks, is_seen_BTN: Tensor) -> Tensor:
        """Return which blocks the heads that share keys read together [B, G, T, N]."""
        importance_BGTN = weights_BHTN.unflatten(1, (-1, self.shape.group_size)).sum(2)
        importance_BGTN = importance_BGTN.masked_fill(blocks.are_fixed()[:, None], float("inf"))
        importance_BGTN = importance_BGTN.masked_fill(~is_seen_BTN[:, None], -1.0)
        # Stable: of equal blocks the earlier ones, however many keys a call has room for.
        order_BGTN = importance_BGTN.argsort(dim=-1, descending=True, stable=True)[..., : self.num_selected]
        selected_BGTN = torch.zeros_like(importance_BGTN, dtype=torch.bool).scatter(-1, order_BGTN, True)
        return selected_BGTN & is_seen_BTN[:, None]


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
