"""The ring buffer of keys and values that windowed attention keeps between calls.

Letters in suffixes: B batch, T time, H heads, G key heads, S slots of the ring, K width of a key, V width of a value.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from archlab import Recurrent, State
from archlab.components._ring import num_slots, reserve_rings, reserved, update_ring
from archlab.components.attention._shape import AttentionShape
from archlab.components.position._base import Position
from archlab.ops.assertions import assert_async

Window: TypeAlias = Literal["full", "chunk", "sliding"]
# Entries that queries attend to: positions, and the entries of the rings by name, those of the call as `new.NAME`, in a
# stream those from before it as `old.NAME`, or for a single token of it both as `ring.NAME`, in the slots of the rings.
Entries: TypeAlias = dict[str, Tensor]


class WindowState(Recurrent):
    """A layer whose state has a position [B], and keys (already rotated) and values of the last `window_size` tokens.

    The token at position p is in slot p mod `window_size`. One that `takes` entries of another layer has no state.
    """

    _device_anchor: Tensor
    rings: ClassVar[tuple[str, ...]] = ("keys", "values")

    def __init__(self, shape: AttentionShape, position: Position, window: Window, window_size: int) -> None:
        super().__init__()
        self.shape, self.position = shape, position
        self.window, self.window_size = window, window_size
        self.takes = False
        # A module without parameters has no other tensor that .to(device, dtype) moves: init_state allocates like it.
        # One element and no scalar: Dynamo reads a float64 scalar on the CPU as a Python float, which it then
        # specializes by tracing the whole model a second time (torch 2.13).
        self.register_buffer("_device_anchor", torch.zeros(1), persistent=False)

    @property
    def max_context(self) -> int | None:
        """The maximum number of tokens of a stream, or None for no limit."""
        return self.window_size if self.window == "full" else None

    @property
    def kv_kind(self) -> Hashable:
        """Properties of keys and values beside the layer's input: layers with equal ones can share them."""
        sizes = (self.shape.num_kv_heads, self.shape.key_dim, self.shape.value_dim)
        return self.rings, self.window, self.window_size, *sizes, self.position.rotation

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

    def _read(self, new: tuple[Tensor, ...], state: State | None) -> tuple[Entries, State]:
        """Return the entries that queries attend to, and the state after the new keys and values."""
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
        # Only the entries that are read: those shared with other layers live until the last of them.
        seen = {"ring": ring} if old and T == 1 else {"new": new, "old": old} if old else {"new": new}
        named = {f"{part}.{name}": x for part, xs in seen.items() for name, x in zip(self.rings, xs, strict=True)}
        rings = dict(zip(self.rings, ring, strict=True))
        after = {"position": position_BT[:, -1].expand(B) + 1} | rings | reserved(state)
        return {"position": position_BT} | named, after

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
