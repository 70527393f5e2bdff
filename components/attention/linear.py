"""Letters in suffixes: B batch, T time, H heads, G key heads, K width of a key, V width of a value."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab import Positive, Recurrent, State, register
from archlab.components.attention._shape import BY_HEADS, AttentionShape
from archlab.components.position._base import Position
from archlab.ops.dtypes import at_least_float32, without_autocast
from archlab.ops.gated_linear import gated_linear


@register("attention", "linear", tensor=BY_HEADS)
class LinearAttention(Recurrent):
    """Attention by running sums, y = f(q) S / f(q) n for S += f(k)^T v, n += f(k), f = elu + 1 (arXiv:2006.16236).

    q: [B, T, H, K], k: [B, T, G, K], v: [B, T, G, V] -> [B, T, H, V].  State: position [B], sums [B, G, K, V] and
    norms [B, G, K] in at least float32.  The scale is not used.
    Raises ValueError for a position that is a bias of attention scores, which linear attention does not compute.
    Deviations: a rotary position is applied after f and to S alone, so that n stays positive (arXiv:2104.09864, 3.3).

    Args:
        eps: Constant added to the denominator f(q) n.
    """

    _device_anchor: Tensor

    def __init__(self, shape: AttentionShape, position: Position, *, eps: Positive = 1e-6) -> None:
        super().__init__()
        if type(position).bias is not Position.bias:
            raise ValueError(f"linear attention has no scores for {type(position).__name__} to add to")
        self.shape, self.position, self.eps = shape, position, eps
        # A module without parameters has no other tensor that .to(device, dtype) moves: init_state allocates like it.
        # One element and no scalar: Dynamo reads a float64 scalar on the CPU as a Python float, which it then
        # specializes by tracing the whole model a second time (torch 2.13).
        self.register_buffer("_device_anchor", torch.zeros(1), persistent=False)

    @property
    def score_size(self) -> float:
        """How scores grow with the width of a head: not at all, as each is divided by the sum of all."""
        return 1.0

    def init_state(self, batch_size: int) -> State:
        """Return empty sums."""
        norms = at_least_float32(self._device_anchor).new_zeros(batch_size, self.shape.num_kv_heads, self.shape.key_dim)
        position = torch.zeros(batch_size, dtype=torch.int64, device=norms.device)
        return {"position": position, "sums": norms.new_zeros(*norms.shape, self.shape.value_dim), "norms": norms}

    def forward(
        self, q_BTHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Divide the sums of values by the sums of keys, both weighed by the query (eq. 18 to 20 of the paper)."""
        B, T = q_BTHK.shape[:2]
        state = state or self.init_state(B)
        position_BT = state["position"][:, None] + torch.arange(T, device=q_BTHK.device)
        q, k = (F.elu(at_least_float32(x)) + 1 for x in (q_BTHK, k_BTGK))
        with without_autocast(q):  # the sums stay in at least float32
            norms_BTGK = state["norms"][:, None] + k.cumsum(1)
            weight_BTH1 = (q * self._repeat(norms_BTGK, 2)).sum(-1, keepdim=True) + self.eps
        q, k = self.position.rotate(q, position_BT), self._repeat(self.position.rotate(k, position_BT), 2)
        v, sums = self._repeat(at_least_float32(v_BTGV), 2), self._repeat(state["sums"], 1)
        y_BTHV, sums = gated_linear(q, k, v, None, sums)
        # Query heads of a group hold equal sums: the state keeps one of them, cloned so as not to retain the others.
        new = {"sums": sums[:, :: self.shape.group_size].clone(), "norms": norms_BTGK[:, -1].clone()}
        return (y_BTHV / weight_BTH1).to(v_BTGV.dtype), {"position": state["position"] + T} | new

    def _repeat(self, x: Tensor, dim: int) -> Tensor:
        """Repeat each key head for the query heads that share it."""
        return x if self.shape.group_size == 1 else x.repeat_interleave(self.shape.group_size, dim)
