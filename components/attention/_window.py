"""Windowed attention: which keys a query sees, and the ring buffer of keys and values between calls.

Letters in suffixes: B batch, R batch and blocks, M blocks, T time, H heads, G key heads, Q queries, S keys or slots of
the ring, K width of a key, V width of a value, C block size, W window.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab import Count, Recurrent, State
from archlab.components._ring import num_slots, pad_ring, reserve_rings, reserved, unroll_ring, update_ring
from archlab.components.attention._shape import AttentionShape
from archlab.components.position._base import Position
from archlab.ops.assertions import assert_async

Window: TypeAlias = Literal["full", "chunk", "sliding"]
# What queries look up: positions, and the entries of the rings by name, those of the call as `new.NAME`, in a stream
# those from before it as `old.NAME`, or for a single token of it both as `ring.NAME`, in the slots of the rings.
Entries: TypeAlias = dict[str, Tensor]


class WindowedAttention(Recurrent):
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

    _device_anchor: Tensor
    rings: ClassVar[tuple[str, ...]] = ("keys", "values")

    def __init__(
        self, shape: AttentionShape, position: Position, *, window: Window = "full", window_size: Count = 2048
    ) -> None:
        super().__init__()
        self.shape, self.position = shape, position
        self.window, self.window_size = window, window_size
        self.gives, self.takes = False, False
        # A module without parameters has no other tensor that .to(device, dtype) moves: init_state allocates like it.
        # One element and no scalar: Dynamo reads a float64 scalar on the CPU as a Python float, which it then
        # specializes by tracing the whole model a second time (torch 2.13).
        self.register_buffer("_device_anchor", torch.zeros(1), persistent=False)

    @property
    def max_context(self) -> int | None:
        """The maximum number of tokens of a stream, or None for no limit."""
        return self.window_size if self.window == "full" else None

    @property
    def score_size(self) -> float:
        """How scores grow with the width of a head; a mixer's queries shrink by it under `train.parametrization`."""
        return self.shape.score_size

    @property
    def kv_kind(self) -> Hashable:
        """What the keys and values depend on beside the layer's input: equal where one may take those of another."""
        sizes = (self.shape.num_kv_heads, self.shape.key_dim, self.shape.value_dim)
        return self.rings, self.window, self.window_size, *sizes, self.position.rotation

    def attend(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Return [B, H, Q, V]; `mask` [B or 1, 1, Q, S] is True where a query sees a key."""
        raise NotImplementedError

    def attend_causal(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, bias: Tensor | None) -> Tensor:
        """Return [B, H, Q, V] under the causal mask, where query i and key i belong to the same token."""
        steps = torch.arange(q_BHQK.shape[2], device=q_BHQK.device)
        return self.attend(q_BHQK, k_BHSK, v_BHSV, (steps[:, None] >= steps)[None, None], bias)

    def init_state(self, batch_size: int) -> State:
        """Return an empty ring buffer at position 0; nothing where those of another layer are used."""
        if self.takes:
            return {}
        slots = (batch_size, 0, self.shape.num_kv_heads)
        return {
            "position": torch.zeros(batch_size, dtype=torch.int64, device=self._device_anchor.device),
            "keys": self._device_anchor.new_zeros(*slots, self.shape.key_dim),
            "values": self._device_anchor.new_zeros(*slots, self.shape.value_dim),
        }

    def reserve_state(self, state: State, num_tokens: int | None) -> State:
        """Return the state with a ring buffer that a stream of `num_tokens` tokens does not outgrow."""
        return reserve_rings(state, dict.fromkeys(self.rings, self.window_size), num_tokens)

    def summarize(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor) -> State:
        """Return keys and values of a piece; nothing where it ends at the end of a chunk, as all pieces do then."""
        whole_chunks = self.window == "chunk" and k_BTGK.shape[1] % self.window_size == 0
        return {} if whole_chunks else {"keys": k_BTGK, "values": v_BTGV}

    def merge(self, earlier: State, later: State) -> State:
        """Return the keys and values of two pieces."""
        return {name: torch.cat((earlier[name], later[name]), dim=1) for name in later}

    def enter(self, summary: State) -> State:
        """Return the state after the pieces of a summary, which start at position 0."""
        B, before = summary["keys"].shape[:2]
        position_1T = torch.arange(before, device=summary["keys"].device)[None]
        place_1T = position_1T % self.window_size if self.window == "chunk" else position_1T
        keys = self.position.rotate(summary["keys"], place_1T)
        slots = min(before, self.window_size)
        entries = {"keys": keys} | {name: summary[name] for name in self.rings[1:]}
        rings = {name: update_ring(None, x, position_1T, self.window_size, slots) for name, x in entries.items()}
        return {"position": position_1T.new_full((B,), before)} | rings

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

    def _read(self, new: tuple[Tensor, ...], state: State | None) -> tuple[Entries, State]:
        """Return what queries look up, and the state after the new keys and values."""
        (B, T), device = new[0].shape[:2], new[0].device
        self._check_context(T, state)
        # Without a state all samples start at 0, and one row of positions serves the whole batch.
        start_B1 = state["position"][:, None] if state else torch.zeros(1, 1, dtype=torch.int64, device=device)
        position_BT = start_B1 + torch.arange(T, device=device)
        new = (self._rotate(new[0], position_BT), *new[1:])
        old = tuple(state[name] for name in self.rings) if state else ()
        slots = num_slots(state, old[0].shape[1] if old else 0, T, self.window_size)
        ring = tuple(
            update_ring(before, x, position_BT, self.window_size, slots)
            for before, x in zip(old or (None,) * len(new), new, strict=True)
        )
        # No more than is looked up: what is given to other layers lives until the last of them.
        seen = {"ring": ring} if old and T == 1 else {"new": new, "old": old} if old else {"new": new}
        named = {f"{part}.{name}": x for part, xs in seen.items() for name, x in zip(self.rings, xs, strict=True)}
        rings = dict(zip(self.rings, ring, strict=True))
        after = {"position": position_BT[:, -1].expand(B) + 1} | rings | reserved(state)
        return {"position": position_BT} | named, after

    def look_up(self, q_BTHK: Tensor, entries: Entries) -> Tensor:
        """Return [B, T, H, V], what the queries of a call find among entries, of this layer or of another."""
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

    def _rotate(self, x_BTHK: Tensor, position_BT: Tensor) -> Tensor:
        place_BT = position_BT % self.window_size if self.window == "chunk" else position_BT
        return self.position.rotate(x_BTHK, place_BT)

    def _check_context(self, num_tokens: int, state: State | None) -> None:
        """Raise where full attention would overwrite a key that later queries see."""
        if self.window != "full":
            return
        if self.window_size < num_tokens:
            raise ValueError(f"{num_tokens} tokens are more than the window_size {self.window_size} of full attention")
        if state:
            fits = (state["position"] <= self.window_size - num_tokens).all()
            # Neither waits for the device nor breaks the graph under torch.compile.
            assert_async(fits, f"the stream exceeds the window_size {self.window_size} of full attention")

    def _unroll_ring(self, ring_BSGK: Tensor | None, new_BTGK: Tensor, start_B1: Tensor) -> Tensor:
        """Return [B, S + T, G, K] in time order: the S < W keys that the first new query may see, then the new keys."""
        before, T = self.window_size - 1, new_BTGK.shape[1]
        if ring_BSGK is not None:
            count = min(before, ring_BSGK.shape[1])
            new_BTGK = torch.cat((unroll_ring(ring_BSGK, start_B1, count).to(new_BTGK.dtype), new_BTGK), dim=1)
        if self.window_size >= T:
            return new_BTGK
        # Blocks after the first one see a whole window each.
        return _pad_time(new_BTGK, before + T - new_BTGK.shape[1], 0)

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
            bias = _add(bias, _fall_in_ring(gates[0], position_B1 % self.window_size))
        y_BH1V = self.attend(q_BH1K, k_BHSK, v_BHSV, mask, bias)
        return y_BH1V.transpose(1, 2)

    def _prefill(self, q_BTHK: Tensor, entries_BT: tuple[Tensor, ...]) -> Tensor:
        """Attend from position 0, with the blocks of a chunked window joined to the batch."""
        B, T = q_BTHK.shape[:2]
        C = min(T, self.window_size)
        q_RCHK, k_RCGK, v_RCGV, *gates = (_split_blocks(x, C) for x in (q_BTHK, *entries_BT))
        steps_1C = torch.arange(C, device=q_BTHK.device)[None]
        bias = self.position.bias(steps_1C, steps_1C)
        if gates:
            bias = _add(bias, _fall(gates[0], C))
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
        q_RHCK = self._repeat_kv(_split_blocks(q_BTHK, C))
        k_RSGK, v_RSGV, *gates = (_split_overlapping(x, C, before, padding) for x in entries_BS)
        start_BM1 = (position_BT[:, :1] + torch.arange(num_blocks, device=q_BTHK.device) * C)[..., None]
        query_RC = (start_BM1 + torch.arange(C, device=q_BTHK.device)).flatten(0, 1)
        key_RS = (start_BM1 - before + torch.arange(before + C, device=q_BTHK.device)).flatten(0, 1)
        mask = self._mask(query_RC[:, :, None], key_RS[:, None, :])[:, None]
        bias = self.position.bias(query_RC, key_RS)
        if query_RC.shape[0] != q_RHCK.shape[0]:  # one row of positions serves the whole batch
            mask = mask.repeat(B, 1, 1, 1)
            bias = bias if bias is None else bias.repeat(B, 1, 1, 1)
        if gates:
            bias = _add(bias, _fall(gates[0], C))
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


def _add(bias: Tensor | None, fall_RHQS: Tensor) -> Tensor:
    return fall_RHQS if bias is None else bias + fall_RHQS


def _fall(gates_RSH: Tensor, num_queries: int) -> Tensor:
    """Return the sums [R, H, Q, S] of the log gates after each key, up to each of the queries, the last of the keys."""
    sum_RHS = gates_RSH.mT.cumsum(-1)
    return sum_RHS[..., -num_queries:, None] - sum_RHS[..., None, :]


def _fall_in_ring(gates_BSH: Tensor, slot_B1: Tensor) -> Tensor:
    """Return the sums [B, H, 1, S] of the log gates after each key of a ring, up to a query's in its slot."""
    sum_BHS, slot_B11 = gates_BSH.mT.cumsum(-1), slot_B1[:, None]
    # What lies behind the query's slot has been read before what lies ahead of it.
    is_before_B1S = torch.arange(sum_BHS.shape[-1], device=sum_BHS.device) > slot_B11
    query_BH1 = sum_BHS.gather(-1, slot_B11.expand(*sum_BHS.shape[:2], 1))
    return (query_BH1 - sum_BHS + is_before_B1S * sum_BHS[..., -1:])[:, :, None]


def _split_blocks(x_BTGK: Tensor, size: int) -> Tensor:
    """Split time into blocks joined to the batch, the last one padded with zeros."""
    x = _pad_time(x_BTGK, 0, -x_BTGK.shape[1] % size)
    return x.reshape(-1, size, *x.shape[2:])


def _split_overlapping(x_BTGK: Tensor, size: int, before: int, padding: int) -> Tensor:
    """Split time into blocks of `size` steps joined to the batch, each preceded by the `before` steps ahead of it."""
    if x_BTGK.shape[1] == before + size:
        return x_BTGK
    x = _pad_time(x_BTGK, 0, padding).unfold(1, before + size, size)
    return x.movedim(-1, 2).flatten(0, 1)


def _pad_time(x_BT: Tensor, before: int, after: int) -> Tensor:
    return F.pad(x_BT, (0, 0) * (x_BT.dim() - 2) + (before, after))
