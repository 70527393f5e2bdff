"""Letters in suffixes: B batch, T time, H heads, G key heads, K width of a key, V width of a value."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab import Positive, Recurrent, State, register
from archlab.components.position._base import Position
from archlab.ops.dtypes import at_least_float32, without_autocast
from archlab.ops.gated_linear import gated_linear


@register("attention", "linear")
class LinearAttention(Recurrent):
    """Attention by running sums, y = f(q) S / f(q) n for S += f(k)^T v, n += f(k), f = elu + 1 (arXiv:2006.16236).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  State: position [B], sums [B, G, K, V] and
    norms [B, G, K] in at least float32.  The scale is not used; eps is added to f(q) n.
    Raises ValueError for a position that adds to scores, of which there are none here.
    Deviations: a position that rotates does so after f, in S alone, where n stays positive (arXiv:2104.09864, 3.3).
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
        eps: Positive = 1e-6,
    ) -> None:
        super().__init__()
        if type(position).bias is not Position.bias:
            raise ValueError(f"linear attention has no scores for {type(position).__name__} to add to")
        self.num_kv_heads, self.num_shared = num_kv_heads, num_heads // num_kv_heads
        self.key_dim, self.value_dim = key_dim, value_dim
        self.position, self.eps = position, eps
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    def init_state(self, batch_size: int) -> State:
        """Return empty sums."""
        norms = at_least_float32(self._like).new_zeros(batch_size, self.num_kv_heads, self.key_dim)
        position = torch.zeros(batch_size, dtype=torch.int64, device=norms.device)
        return {"position": position, "sums": norms.new_zeros(*norms.shape, self.value_dim), "norms": norms}

    def forward(
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Read the sums of all keys so far with every query."""
        B, T = q_BTHK.shape[:2]
        state = state or self.init_state(B)
        position_BT = state["position"][:, None] + torch.arange(T, device=q_BTHK.device)
        q, k = (F.elu(at_least_float32(x)) + 1 for x in (q_BTHK, k_BTGK))
        with without_autocast(q):
            norms_BTGK = state["norms"][:, None] + k.cumsum(1)
            weight_BTH1 = (q * self._shared(norms_BTGK, 2)).sum(-1, keepdim=True) + self.eps
        q, k = self.position.rotate(q, position_BT), self._shared(self.position.rotate(k, position_BT), 2)
        v, sums = self._shared(at_least_float32(v_BTGV), 2), self._shared(state["sums"], 1)
        y_BTHV, sums = gated_linear(q, k, v, None, sums)
        kept = {"sums": sums[:, :: self.num_shared].clone(), "norms": norms_BTGK[:, -1].clone()}
        return (y_BTHV / weight_BTH1).to(v_BTGV.dtype), {"position": state["position"] + T} | kept

    def _shared(self, x: Tensor, dim: int) -> Tensor:
        """Repeat each key head for the queries that share it."""
        return x if self.num_shared == 1 else x.repeat_interleave(self.num_shared, dim)
