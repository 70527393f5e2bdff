"""Letters in suffixes: B batch, T time, H heads, G key heads, R heads that share a key head, K width of a key,
V width of a value, M blocks, C and S steps of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab.components._numerics import at_least_float32, without_autocast
from archlab.components.position._base import Position
from archlab.domains import Positive
from archlab.registry import register
from archlab.state import Recurrent, State

BLOCK = 64


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
        self.num_kv_heads, self.key_dim, self.value_dim = num_kv_heads, key_dim, value_dim
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
            turned_q, turned_k = self.position.rotate(q, position_BT), self.position.rotate(k, position_BT)
            y_BTGRV, sums = _read(self._grouped(turned_q), turned_k, at_least_float32(v_BTGV), state["sums"])
            weight_BTGR = (self._grouped(q) @ norms_BTGK[..., None])[..., 0] + self.eps
        y_BTHV = (y_BTGRV / weight_BTGR[..., None]).flatten(2, 3).to(v_BTGV.dtype)
        return y_BTHV, {"position": state["position"] + T, "sums": sums, "norms": norms_BTGK[:, -1].clone()}

    def _grouped(self, q_BTHK: Tensor) -> Tensor:
        return q_BTHK.unflatten(2, (self.num_kv_heads, -1))


def _read(q_BTGRK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, sums_BGKV: Tensor) -> tuple[Tensor, Tensor]:
    """Return q S at every step [B, T, G, R, V], and the last S: products inside a block, sums between them."""
    T = q_BTGRK.shape[1]
    q, k, v = (_blocks(x, min(T, BLOCK)) for x in (q_BTGRK, k_BTGK, v_BTGV))
    each_BMGKV = torch.einsum("bmcgk,bmcgv->bmgkv", k, v)
    starts_BMGKV = torch.cat((sums_BGKV[:, None], each_BMGKV), dim=1).cumsum(1)
    within = torch.einsum("bmcgrk,bmsgk->bmgrcs", q, k).tril()
    y_BMCGRV = torch.einsum("bmgrcs,bmsgv->bmcgrv", within, v)
    y_BMCGRV = y_BMCGRV + torch.einsum("bmcgrk,bmgkv->bmcgrv", q, starts_BMGKV[:, :-1])
    return y_BMCGRV.flatten(1, 2)[:, :T], starts_BMGKV[:, -1].clone()


def _blocks(x: Tensor, size: int) -> Tensor:
    """Cut [B, T, ...] into [B, M, size, ...], the last block padded with zeros."""
    padded = F.pad(x, (0, 0) * (x.dim() - 2) + (0, -x.shape[1] % size))
    return padded.unflatten(1, (-1, size))
