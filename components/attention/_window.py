"""What attention functions share: how far back a query sees, and the keys that are kept between calls.

Letters in suffixes: B batch (R where blocks have joined it), T time, H heads, G key heads, Q queries,
S keys, K width of a key, V width of a value, W window.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.components.position._base import Position
from archlab.domains import Count
from archlab.state import Recurrent, State

Window: TypeAlias = Literal["full", "chunk", "sliding"]


class Windowed(Recurrent):
    """Attention whose weights are a function of the scores of the keys in a causal window.

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  State: position [B] and the last
    `window_size` keys (already rotated) and values. `full` sees all, and refuses a stream of more than
    `window_size` tokens; `sliding` sees the last `window_size`, itself among them; `chunk` sees its own block of them.
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
            torch._assert_async(fits, f"the stream exceeds the window_size {self.window_size} of full attention")
        begin_B1 = state["position"][:, None] if state else torch.zeros(1, 1, dtype=torch.int64, device=q_BTHK.device)
        position_BT = begin_B1 + torch.arange(T, device=q_BTHK.device)
        place_BT = position_BT % self.window_size if self.window == "chunk" else position_BT
        q_BTHK, k_BTGK = self.position.rotate(q_BTHK, place_BT), self.position.rotate(k_BTGK, place_BT)
        if state is None and (self.window != "sliding" or self.window_size >= T):
            keys, values = self._fitted(k_BTGK), self._fitted(v_BTGV)
            y_BTHV = self._from_start(q_BTHK, k_BTGK, v_BTGV)
        else:
            earlier = state or {}
            keys, values = self._append(earlier.get("keys"), k_BTGK), self._append(earlier.get("values"), v_BTGV)
            y_BTHV = self._streamed(q_BTHK, keys, values, position_BT)
        kept = {"keys": self._latest(keys), "values": self._latest(values)}
        return y_BTHV, {"position": position_BT[:, -1].expand(B) + 1} | kept

    def _append(self, kept_BWGK: Tensor | None, new_BTGK: Tensor) -> Tensor:
        """Return the new keys behind the `window_size - 1` that the first of the new queries may see."""
        if kept_BWGK is None:
            return F.pad(new_BTGK, (0, 0, 0, 0, self.window_size - 1, 0))
        return torch.cat((kept_BWGK[:, 1:].to(new_BTGK.dtype), new_BTGK), dim=1)

    def _latest(self, keys_BSGK: Tensor) -> Tensor:
        """Return the last `window_size` keys in memory of their own, laid out alike after every call."""
        return keys_BSGK if keys_BSGK.shape[1] == self.window_size else keys_BSGK[:, -self.window_size :].clone()

    def _fitted(self, keys_BTGK: Tensor) -> Tensor:
        """Return the last `window_size` of a stream's first keys in memory of their own, zeros ahead of few."""
        return F.pad(keys_BTGK, (0, 0, 0, 0, self.window_size - keys_BTGK.shape[1], 0))

    def _from_start(self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor) -> Tensor:
        """Attend from the first token on, each block by itself."""
        B, T = q_BTHK.shape[:2]
        C = min(T, self.window_size)
        q_RHCK, k_RHCK, v_RHCV = (self._heads(_blocks(x, C)) for x in (q_BTHK, k_BTGK, v_BTGV))
        steps_1C = torch.arange(C, device=q_BTHK.device)[None]
        y_RHCV = self.attend_causal(q_RHCK, k_RHCK, v_RHCV, self.position.bias(steps_1C, steps_1C))
        return y_RHCV.transpose(1, 2).reshape(B, -1, *y_RHCV.shape[1::2])[:, :T]

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
