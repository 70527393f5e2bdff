from __future__ import annotations

from torch import Tensor

from archlab import Count, Factory, Heads, Param, Recurrent, State, StateScope, TensorPlan, choice, register, slot
from archlab.components._init import Init, linear
from archlab.components.attention._shape import AttentionShape


@register(
    "mixer",
    "attention",
    search={"num_heads": choice(1, 2, 4, 8)},
    params={
        "query.weight": Param("hidden", tensor="column", scale={"attention.score_size": -1.0}),
        "query.bias": Param("vector", tensor="column", scale={"attention.score_size": -1.0}),
        "key.weight": Param("hidden", tensor="column"),
        "key.bias": Param("vector", tensor="column"),
        "value.weight": Param("hidden", tensor="column"),
        "value.bias": Param("vector", tensor="column"),
        "out.weight": Param("hidden", tensor="row", branch=True),
        "out.bias": Param("vector", branch=True),
    },
    tensor=TensorPlan(parts=("attention",)),
)
class MultiHeadAttention(Recurrent):
    """Multi-head attention (arXiv:1706.03762), with keys and values shared by groups of heads (arXiv:2305.13245).

    x: [B, T, D] -> [B, T, D].  Scores are divided by sqrt(head_dim).
    Raises ValueError where num_heads does not divide D, or num_kv_heads does not divide num_heads.

    Args:
        num_heads: Number of query heads.
        num_kv_heads: Number of key and value heads; null for one per query head.
        head_dim: Width of a head; null for D / num_heads.
        bias: Whether the projections have a bias.
        init: Distribution of the projections' weights.
        attention: Attention function of the heads.
        position: Positions that rotate queries and keys, or add a bias to the scores.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        num_kv_heads: Heads | None = None,
        head_dim: Count | None = None,
        bias: bool = False,
        init: Init = "he",
        attention: Factory = slot("attention", "softmax"),
        position: Factory = slot("position", "rope"),
    ) -> None:
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        if head_dim is None and dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        if num_heads % num_kv_heads:
            raise ValueError(f"num_heads {num_heads} is not divisible by num_kv_heads {num_kv_heads}")
        self.head_dim = head_dim or dim // num_heads
        self.query = linear(dim, num_heads * self.head_dim, bias=bias, init=init)
        self.key = linear(dim, num_kv_heads * self.head_dim, bias=bias, init=init)
        self.value = linear(dim, num_kv_heads * self.head_dim, bias=bias, init=init)
        self.out = linear(num_heads * self.head_dim, dim, bias=bias, init=init)
        shape = AttentionShape(num_heads, num_kv_heads, self.head_dim, self.head_dim, scale=self.head_dim**-0.5)
        self.attention = attention(shape, position(num_heads, self.head_dim).require_place("attention"))

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Attend with every head, and project the concatenated outputs."""
        scope = StateScope(state)
        qkv = (part(x_BTD).unflatten(-1, (-1, self.head_dim)) for part in (self.query, self.key, self.value))
        y_BTHV = scope("attention", self.attention, *qkv)
        return self.out(y_BTHV.flatten(-2)), scope.state
