"""Windowed attention: which keys a query sees.

Letters in suffixes: B batch, R batch and blocks, M blocks, T time, H heads, G key heads, Q queries, S keys or slots of
the ring, K width of a key, V width of a value, C block size, W window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archlab import Count, State
from archlab.components._ring import pad_ring, unroll_ring
from archlab.components.attention._blocks import pad_time, split_blocks, split_overlapping
from archlab.components.attention._log_gates import add_bias, fall, fall_in_ring
from archlab.components.attention._shape import AttentionShape
from archlab.components.attention._window_state import Entries, Window, WindowState
from archlab.components.position._base import Position


class WindowedAttention(WindowState):
    """Attention whose weights are a function of the scores of the keys in a causal window.

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  State: position [B], and a ring buffer of the
    last `window_size` keys (already rotated) and values, or as many as were read, with position p in slot p mod
    `window_size`.
    Raises ValueError where full attention is called on more than `window_size` tokens.

    One that `gives` returns the entries of its window beside its output. One that `takes` those of another has no
    state: its mixer calls `look_up` alone.

    Args:
        window: Keys that a query sees: `full`, every earlier token of a stream of at most `window_size` tokens;
            `sliding`, the last `window_size` tokens including its own; `chunk`, its own block of `window_size` tokens.
        window_size: Length of the window in tokens, also the largest number of keys and values in the state.
    """

    def __init__(
        self, shape: AttentionShape, position: Position, *, window: Window = "full", window_size: Count = 2048
    ) -> None:
        super().__init__(shape, position, window, window_size)
        self.gives = False

    @property
    def score_size(self) -> float:
        """How scores grow with the width of a head; a mixer's queries shrink by it under `train.parametrization`."""
        return self.shape.score_size

    def attend(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Return [B, H, Q, V]; `mask` [B or 1, 1, Q, S] is True where a query sees a key."""
        raise NotImplementedError

    def attend_causal(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, bias: Tensor | None) -> Tensor:
        """Return [B, H, Q, V] under the causal mask, where query i and key i belong to the same token."""
        steps = torch.arange(q_BHQK.shape[2], device=q_BHQK.device)
        return self.attend(q_BHQK, k_BHSK, v_BHSV, (steps[:, None] >= steps)[None, None], bias)

    def forward(
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State | None = None
    ) -> tuple[Tensor | tuple[Tensor, Entries], State]:
        """Attend within the window, and store the new keys and values in the ring buffer."""
        return self._run(q_BTHK, (k_BTGK, v_BTGV), state)

    def _run(
        self, q_BTHK: Tensor, new: tuple[Tensor, ...], state: State | None
    ) -> tuple[Tensor | tuple[Tensor, Entries], State]:
        """Attend to entries: keys, values and, if there are any, log gates [B, T, H], of which a score has the sum.

        The sum is that of the gates after the key's token, up to that of the query.
        """
        entries, after = self._read(new, state)
        y_BTHV = self.look_up(q_BTHK, entries)
        return ((y_BTHV, entries) if self.gives else y_BTHV), after

    def look_up(self, q_BTHK: Tensor, entries: Entries) -> Tensor:
        """Return the outputs [B, T, H, V] of a call's queries over entries of this layer or of another."""
        T, position_BT = q_BTHK.shape[1], entries["position"]
        q_BTHK = self._rotate(q_BTHK, position_BT)
        ring, old, new = (
            tuple(entries[key] for name in self.rings if (key := f"{part}.{name}") in entries)
            for part in ("ring", "old", "new")
        )
        if ring:
            return self._decode(q_BTHK, ring, position_BT)
        if old and self.window == "chunk" and self.window_size <= T:
            return self._prefill_mid_chunk(q_BTHK, new, old, position_BT)
        if old or (self.window == "sliding" and self.window_size < T):
            before = old or (None,) * len(new)
            seen = (self._unroll_ring(ring, x, position_BT[:, :1]) for ring, x in zip(before, new, strict=True))
            return self._extend(q_BTHK, tuple(seen), position_BT)
        return self._prefill(q_BTHK, new)

    def _unroll_ring(self, ring_BSGK: Tensor | None, new_BTGK: Tensor, start_B1: Tensor) -> Tensor:
        """Return [B, S + T, G, K] in time order: the S < W keys that the first new query may see, then the new keys."""
        before, T = self.window_size - 1, new_BTGK.shape[1]
        if ring_BSGK is not None:
            count = min(before, ring_BSGK.shape[1])
            new_BTGK = torch.cat((unroll_ring(ring_BSGK, start_B1, count).to(new_BTGK.dtype), new_BTGK), dim=1)
        if self.window_size >= T:
            return new_BTGK
        # Blocks after the first one see a whole window each.
        return pad_time(new_BTGK, before + T - new_BTGK.shape[1], 0)

    def _decode(self, q_B1HK: Tensor, entries_BS: tuple[Tensor, ...], position_B1: Tensor) -> Tensor:
        """Attend from a single token to the ring buffer in slot order, which softmax does not depend on."""
        keys_BSGK, values_BSGV, *gates = entries_BS
        # Slots that are not yet filled have negative positions.
        age_BS = (position_B1 - torch.arange(keys_BSGK.shape[1], device=q_B1HK.device)) % self.window_size
        key_BS = position_B1 - age_BS
        mask = self._mask(position_B1[:, :, None], key_BS[:, None])[:, None]
        q_BH1K, k_BHSK, v_BHSV = (self._repeat_kv(x) for x in (q_B1HK, keys_BSGK, values_BSGV))
        bias = self.position.bias(position_B1, key_BS)
        if gates:
            bias = add_bias(bias, fall_in_ring(gates[0], position_B1 % self.window_size))
        y_BH1V = self.attend(q_BH1K, k_BHSK, v_BHSV, mask, bias)
        return y_BH1V.transpose(1, 2)

    def _prefill(self, q_BTHK: Tensor, entries_BT: tuple[Tensor, ...]) -> Tensor:
        """Attend from position 0, with the blocks of a chunked window joined to the batch."""
        B, T = q_BTHK.shape[:2]
        C = min(T, self.window_size)
        q_RCHK, k_RCGK, v_RCGV, *gates = (split_blocks(x, C) for x in (q_BTHK, *entries_BT))
        steps_1C = torch.arange(C, device=q_BTHK.device)[None]
        bias = self.position.bias(steps_1C, steps_1C)
        if gates:
            bias = add_bias(bias, fall(gates[0], C))
        q_RHCK, k_RHCK, v_RHCV = (self._repeat_kv(x) for x in (q_RCHK, k_RCGK, v_RCGV))
        y_RHCV = self.attend_causal(q_RHCK, k_RHCK, v_RHCV, bias)
        return y_RHCV.transpose(1, 2).reshape(B, -1, *y_RHCV.shape[1::2])[:, :T]

    def _prefill_mid_chunk(
        self, q_BTHK: Tensor, entries_BT: tuple[Tensor, ...], rings_BS: tuple[Tensor, ...], position_BT: Tensor
    ) -> Tensor:
        """Prefill from inside a chunk: lay out the tokens of the ring and the new ones from the chunk's start on.

        In a chunked window the first slots of the ring buffer are the current chunk in time order. The others are left
        over from the chunk before; the new tokens, at least a window of them, overwrite those.
        """
        W, (B, T) = self.window_size, q_BTHK.shape[:2]
        places = (torch.arange(B, device=q_BTHK.device)[:, None], position_BT - position_BT[:, :1] // W * W)
        size = W + (T + W - 2) // W * W  # room for T tokens from the last slot of a chunk on: no shape depends on data

        def place(first_BSHK: Tensor, new_BTHK: Tensor) -> Tensor:
            return pad_ring(first_BSHK.to(new_BTHK.dtype), size).index_put(places, new_BTHK)

        no_queries = q_BTHK.new_zeros(B, 0, *q_BTHK.shape[2:])
        entries = tuple(place(ring, x) for ring, x in zip(rings_BS, entries_BT, strict=True))
        return self._prefill(place(no_queries, q_BTHK), entries)[places]

    def _extend(self, q_BTHK: Tensor, entries_BS: tuple[Tensor, ...], position_BT: Tensor) -> Tensor:
        """Attend from the new tokens to the earlier and new keys, in blocks of queries beside their windows."""
        B, T = q_BTHK.shape[:2]
        # Compared rather than by min(T, W): a call of up to W tokens, of any length, is then traced as one block.
        before, C = entries_BS[0].shape[1] - T, T if self.window_size >= T else self.window_size
        num_blocks = 1 if self.window_size >= T else -(-T // C)
        padding = num_blocks * C - T
        q_RHCK = self._repeat_kv(split_blocks(q_BTHK, C))
        k_RSGK, v_RSGV, *gates = (split_overlapping(x, C, before, padding) for x in entries_BS)
        start_BM1 = (position_BT[:, :1] + torch.arange(num_blocks, device=q_BTHK.device) * C)[..., None]
        query_RC = (start_BM1 + torch.arange(C, device=q_BTHK.device)).flatten(0, 1)
        key_RS = (start_BM1 - before + torch.arange(before + C, device=q_BTHK.device)).flatten(0, 1)
        mask = self._mask(query_RC[:, :, None], key_RS[:, None, :])[:, None]
        bias = self.position.bias(query_RC, key_RS)
        if query_RC.shape[0] != q_RHCK.shape[0]:  # one row of positions serves the whole batch
            mask = mask.repeat(B, 1, 1, 1)
            bias = bias if bias is None else bias.repeat(B, 1, 1, 1)
        if gates:
            bias = add_bias(bias, fall(gates[0], C))
        y_RHCV = self.attend(q_RHCK, self._repeat_kv(k_RSGK), self._repeat_kv(v_RSGV), mask, bias)
        return y_RHCV.transpose(1, 2).reshape(B, -1, *y_RHCV.shape[1::2])[:, :T]

    def _mask(self, query: Tensor, key: Tensor) -> Tensor:
        """Return True where the query at a position sees the key at a position; negative positions are padding."""
        causal = (key >= 0) & (key <= query)
        if self.window == "chunk":
            return causal & (key >= query - query % self.window_size)
        return causal & (key > query - self.window_size)

    def _repeat_kv(self, x_RSGK: Tensor) -> Tensor:
        """Return [R, H, S, K], each key head repeated for the query heads that share it."""
        x_RGSK = x_RSGK.transpose(1, 2)
        group_size = self.shape.num_heads // x_RGSK.shape[1]
        return x_RGSK if group_size == 1 else x_RGSK.repeat_interleave(group_size, dim=1)
