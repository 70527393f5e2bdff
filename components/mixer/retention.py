from __future__ import annotations

import torch
from torch import Tensor

from archlab import Factory, Heads, Positive, Recurrent, State, TensorPlan, Width, choice, register, slot
from archlab.components._init import Init, linear
from archlab.components.mixer._heads import QKV_PARAMS, GatedOutput, head_width, heads
from archlab.components.norm.group import GroupNorm
from archlab.components.position._base import Position
from archlab.ops.dtypes import at_least_float32
from archlab.ops.gated_linear import gated_linear


@register(
    "mixer",
    "retention",
    search={"num_heads": choice(1, 2, 4, 8)},
    params=QKV_PARAMS,
    tensor=TensorPlan(counts=("num_heads",), first="first_head", parts=("position", "mixed.norm")),
)
class MultiScaleRetention(Recurrent):
    """Linear attention with a fixed decay per head, 1 - 2^(-5 - h) for head h, RetNet (arXiv:2307.08621).

    x: [B, T, D] -> [B, T, D].  State: position [B], and sums [B, H, K, V] in at least float32.
    Raises ValueError where num_heads does not divide one of the widths, and for a position that is a bias of attention
    scores, which retention does not compute.
    Deviations: the weights of a step are not divided by their sum, as in the paper's recurrent form; the output norm
    is invariant to that scale.

    Args:
        num_heads: Number of heads.
        key_dim: Width of queries and keys over all heads; null for D.
        value_dim: Width of values over all heads; null for 2 D.
        position: Positions that rotate queries and keys.
        eps: Constant added to the variance in the output norm.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        key_dim: Width | None = None,
        value_dim: Width | None = None,
        position: Factory = slot("position", "rope"),
        eps: Positive = 1e-5,
        init: Init = "he",
    ) -> None:
        super().__init__()
        key_dim, value_dim = key_dim or dim, value_dim or 2 * dim
        self.head_dims = (head_width("key_dim", key_dim, num_heads), head_width("value_dim", value_dim, num_heads))
        self.num_heads, self.first_head = num_heads, 0
        self.position = position(num_heads, self.head_dims[0]).require_place("attention")
        if type(self.position).bias is not Position.bias:
            raise ValueError(f"retention has no scores for {type(self.position).__name__} to add to")
        self.query = linear(dim, key_dim, bias=False, init=init)
        self.key = linear(dim, key_dim, bias=False, init=init)
        self.value = linear(dim, value_dim, bias=False, init=init)
        norm = GroupNorm(value_dim, num_groups=num_heads, eps=eps)
        self.mixed = GatedOutput(dim, value_dim, norm=norm, joined=True, gated=True, init=init)

    def init_state(self, batch_size: int) -> State:
        """Return empty sums."""
        sums = at_least_float32(self.query.weight).new_zeros(batch_size, self.num_heads, *self.head_dims)
        return {"position": torch.zeros(batch_size, dtype=torch.int64, device=sums.device), "sums": sums}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read the decayed sums of keys and values with each query."""
        B, T = x_BTD.shape[:2]
        state = state or self.init_state(B)
        position_BT = state["position"][:, None] + torch.arange(T, device=x_BTD.device)
        q, k, v = (heads(part(x_BTD), self.num_heads) for part in (self.query, self.key, self.value))
        q, k = (self.position.rotate(x, position_BT) for x in (q * self.head_dims[0] ** -0.5, k))
        log_decay_BTH1 = self._log_decay(state["sums"]).view(1, 1, -1, 1).expand(B, T, -1, 1)
        y_BTHV, sums = gated_linear(q, k, v, log_decay_BTH1, state["sums"])
        return self.mixed(y_BTHV, x_BTD), {"position": state["position"] + T, "sums": sums}

    def _log_decay(self, like: Tensor) -> Tensor:
        """Return log(1 - 2^(-5 - h)) of each head h, by log1p since the last heads' decays round to 1 in float32."""
        head = self.first_head + torch.arange(self.num_heads, dtype=like.dtype, device=like.device)
        return torch.log1p(-torch.exp2(-5 - head))
