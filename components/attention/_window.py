"""What attention functions share: how far back a query sees, and the keys that are kept between calls.

Letters in suffixes: B batch (R where blocks have joined it), T time, H heads, G key heads, Q queries,
S keys, K width of a key, V width of a value, W window.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab import Count, Recurrent, State
from archlab.components.position._base import Position
from archlab.ops.assertions import assert_async

Window: TypeAlias = Literal["full", "chunk", "sliding"]


class WindowedAttention(Recurrent):
    """Attention whose weights are a function of the scores of the keys in a causal window.

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  State: position [B] and the last
    `window_size` keys (already rotated) and values, those of position p at place p mod `window_size`. `full` sees
    all, and refuses a stream of more than `window_size` tokens; `sliding` sees the last `window_size`, itself among
    them; `chunk` sees its own block of them.
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
        window: Window = "full",
        window_size: Count = 2048,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.key_dim, self.value_dim, self.scale = key_dim, value_dim, scale
        self.window, self.window_size, self.position = window, window_size, position
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    @property
    def max_context(self) -> int | None:
        """The most tokens that one stream may hold, or None where there is no limit."""
        return self.window_size if self.window == "full" else None

    def attend(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, mask: Tensor, bias: Tensor | None) -> Tensor:
        """Return [B, H, Q, V]; `mask` [B or 1, 1, Q, S] is True where a query sees a key."""
        raise NotImplementedError

    def attend_causal(self, q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, bias: Tensor | None) -> Tensor:
        """Return [B, H, Q, V] where query and key i are one token, and each sees those up to itself."""
        steps = torch.arange(q_BHQK.shape[2], device=q_BHQK.device)
        return self.attend(q_BHQK, k_BHSK, v_BHSV, (steps[:, None] >= steps)[None, None], bias)

    def init_state(self, batch_size: int) -> State:
        """Return a stream with no token in it."""
        kept = (batch_size, self.window_size, self.num_kv_heads)
        return {
            "position": torch.zeros(batch_size, dtype=torch.int64, device=self._like.device),
            "keys": self._like.new_zeros(*kept, self.key_dim),
            "values": self._like.new_zeros(*kept, self.value_dim),
        }

    def forward(
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Attend within the window, and keep what later queries may see."""
        B, T = q_BTHK.shape[:2]
        if self.window == "full" and self.window_size < T:
            raise ValueError(f"{T} tokens are more than the window_size {self.window_size} of full attention")
        if self.window == "full" and state:
            fits = (state["position"] <= self.window_size - T).all()
            assert_async(fits, f"the stream exceeds the window_size {self.window_size} of full attention")
        begin_B1 = state["position"][:, None] if state else torch.zeros(1, 1, dtype=torch.int64, device=q_BTHK.device)
        position_BT = begin_B1 + torch.arange(T, device=q_BTHK.device)
        place_BT = position_BT % self.window_size if self.window == "chunk" else position_BT
        q_BTHK, k_BTGK = self.position.rotate(q_BTHK, place_BT), self.position.rotate(k_BTGK, place_BT)
        ring_k, ring_v = (state["keys"], state["values"]) if state else (None, None)
        kept_k, kept_v = self._kept(ring_k, k_BTGK, position_BT), self._kept(ring_v, v_BTGV, position_BT)
        if state and T == 1:
            y_BTHV = self._one_step(q_BTHK, kept_k, kept_v, position_BT)
        elif state and self.window == "chunk" and self.window_size <= T:
            y_BTHV = self._from_middle(q_BTHK, k_BTGK, v_BTGV, state, position_BT)
        elif state or (self.window == "sliding" and self.window_size < T):
            keys, values = self._in_order(ring_k, k_BTGK, begin_B1), self._in_order(ring_v, v_BTGV, begin_B1)
            y_BTHV = self._streamed(q_BTHK, keys, values, position_BT)
        else:
            y_BTHV = self._from_start(q_BTHK, k_BTGK, v_BTGV)
        return y_BTHV, {"position": position_BT[:, -1].expand(B) + 1, "keys": kept_k, "values": kept_v}

    def _kept(self, ring_BWGK: Tensor | None, new_BTGK: Tensor, position_BT: Tensor) -> Tensor:
        """Return the last `window_size` keys, that of position p at place p mod `window_size`."""
        W, T = self.window_size, new_BTGK.shape[1]
        if ring_BWGK is not None:
            samples_B1 = torch.arange(new_BTGK.shape[0], device=new_BTGK.device)[:, None]
            places = (samples_B1, position_BT[:, -W:] % W)
            return ring_BWGK.to(new_BTGK.dtype).index_put(places, new_BTGK[:, -W:])
        if T <= W:
            return F.pad(new_BTGK, (0, 0, 0, 0, 0, W - T))
        return new_BTGK[:, -W:].roll(T % W, dims=1)

    def _in_order(self, ring_BWGK: Tensor | None, new_BTGK: Tensor, begin_B1: Tensor) -> Tensor:
        """Return the new keys behind the `window_size - 1` that the first of the new queries may see."""
        W = self.window_size
        if ring_BWGK is None:
            return F.pad(new_BTGK, (0, 0, 0, 0, W - 1, 0))
        samples_B1 = torch.arange(new_BTGK.shape[0], device=new_BTGK.device)[:, None]
        earlier = ring_BWGK[samples_B1, (begin_B1 + torch.arange(1, W, device=new_BTGK.device)) % W]
        return torch.cat((earlier.to(new_BTGK.dtype), new_BTGK), dim=1)

    def _one_step(self, q_B1HK: Tensor, keys_BWGK: Tensor, values_BWGV: Tensor, position_B1: Tensor) -> Tensor:
        """Attend over the kept keys where they lie, the query's own among them."""
        ago_BW = (position_B1 - torch.arange(self.window_size, device=q_B1HK.device)) % self.window_size
        key_BW = position_B1 - ago_BW
        mask = self._visible(position_B1[:, :, None], key_BW[:, None])[:, None]
        q_BH1K, k_BHWK, v_BHWV = (self._heads(x) for x in (q_B1HK, keys_BWGK, values_BWGV))
        y_BH1V = self.attend(q_BH1K, k_BHWK, v_BHWV, mask, self.position.bias(position_B1, key_BW))
        return y_BH1V.transpose(1, 2)

    def _from_start(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor) -> Tensor:
        """Attend from the first token on, each block by itself."""
        B, T = q_BTHK.shape[:2]
        C = min(T, self.window_size)
        q_RHCK, k_RHCK, v_RHCV = (self._heads(_blocks(x, C)) for x in (q_BTHK, k_BTGK, v_BTGV))
        steps_1C = torch.arange(C, device=q_BTHK.device)[None]
        y_RHCV = self.attend_causal(q_RHCK, k_RHCK, v_RHCV, self.position.bias(steps_1C, steps_1C))
        return y_RHCV.transpose(1, 2).reshape(B, -1, *y_RHCV.shape[1::2])[:, :T]

    def _from_middle(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State, position_BT: Tensor) -> Tensor:
        """Attend as from the start, the new steps laid behind those of their chunk, which are first in the ring."""
        W, (B, T) = self.window_size, q_BTHK.shape[:2]
        places = (torch.arange(B, device=q_BTHK.device)[:, None], position_BT - position_BT[:, :1] // W * W)
        after = (T + W - 2) // W * W  # so many places, wherever in a chunk the steps begin

        def laid(first_BWHK: Tensor, new_BTHK: Tensor) -> Tensor:
            room = F.pad(first_BWHK.to(new_BTHK.dtype), (0, 0, 0, 0, 0, after))
            return room.index_put(places, new_BTHK)

        nobody = q_BTHK.new_zeros(B, W, *q_BTHK.shape[2:])
        keys, values = laid(state["keys"], k_BTGK), laid(state["values"], v_BTGV)
        return self._from_start(laid(nobody, q_BTHK), keys, values)[places]

    def _streamed(self, q_BTHK: Tensor, keys: Tensor, values: Tensor, position_BT: Tensor) -> Tensor:
        """Attend over the kept and the new keys: blocks of queries, each beside the window before it."""
        B, T = q_BTHK.shape[:2]
        before, C = self.window_size - 1, min(T, self.window_size)
        count = -(-T // C)
        spare = count * C - T
        q_RHCK = self._heads(_blocks(q_BTHK, C))
        k_RHSK, v_RHSV = (self._heads(_overlapping(x, C, before, spare)) for x in (keys, values))
        begin_BM1 = (position_BT[:, :1] + torch.arange(count, device=q_BTHK.device) * C)[..., None]
        query_RC = (begin_BM1 + torch.arange(C, device=q_BTHK.device)).flatten(0, 1)
        key_RS = (begin_BM1 - before + torch.arange(before + C, device=q_BTHK.device)).flatten(0, 1)
        mask = self._visible(query_RC[:, :, None], key_RS[:, None, :])[:, None]
        bias = self.position.bias(query_RC, key_RS)
        if query_RC.shape[0] != q_RHCK.shape[0]:  # one stream's positions serve the whole batch
            mask = mask.repeat(B, 1, 1, 1)
            bias = bias if bias is None else bias.repeat(B, 1, 1, 1)
        y_RHCV = self.attend(q_RHCK, k_RHSK, v_RHSV, mask, bias)
        return y_RHCV.transpose(1, 2).reshape(B, -1, *y_RHCV.shape[1::2])[:, :T]

    def _visible(self, query: Tensor, key: Tensor) -> Tensor:
        seen = (key >= 0) & (key <= query)
        if self.window == "chunk":
            return seen & (key >= query - query % self.window_size)
        return seen & (key > query - self.window_size)

    def _heads(self, x_RSGK: Tensor) -> Tensor:
        """Return [R, H, S, K], each key head repeated for the queries that share it."""
        x_RGSK = x_RSGK.transpose(1, 2)
        shared = self.num_heads // x_RGSK.shape[1]
        return x_RGSK if shared == 1 else x_RGSK.repeat_interleave(shared, dim=1)


def _blocks(x_BTGK: Tensor, size: int) -> Tensor:
    """Cut time into blocks that join the batch, the last one padded."""
    x = F.pad(x_BTGK, (0, 0, 0, 0, 0, -x_BTGK.shape[1] % size))
    return x.reshape(-1, size, *x.shape[2:])


def _overlapping(x_BTGK: Tensor, size: int, before: int, spare: int) -> Tensor:
    """Cut time into blocks of `size` steps, each with the `before` steps ahead of it, joined to the batch."""
    x = F.pad(x_BTGK, (0, 0, 0, 0, 0, spare)).unfold(1, before + size, size)
    return x.movedim(-1, 2).flatten(0, 1)
