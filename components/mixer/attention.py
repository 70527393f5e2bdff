from __future__ import annotations

from torch import Tensor

from archlab import Count, Factory, Recurrent, State, StateScope, choice, register, slot
from archlab.components._init import Init, linear


@register("mixer", "attention", search={"num_heads": choice(1, 2, 4, 8)})
class MultiHeadAttention(Recurrent):
    """Attention by several heads (arXiv:1706.03762), which may share keys and values in groups (arXiv:2305.13245).

    x: [B, T, D] -> [B, T, D].  Unless said otherwise a head is D / num_heads wide and has keys of its own.
    Raises ValueError where num_heads does not divide D, or num_kv_heads does not divide num_heads.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Count = 4,
        num_kv_heads: Count | None = None,
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
        placed = position(num_heads, self.head_dim).placed("attention")
        widths = (num_heads, num_kv_heads, self.head_dim, self.head_dim)
        self.attention = attention(*widths, self.head_dim**-0.5, placed)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Attend with every head, and mix what they found."""
        stream = StateScope(state)
        qkv = (part(x_BTD).unflatten(-1, (-1, self.head_dim)) for part in (self.query, self.key, self.value))
        y_BTHV = stream("attention", self.attention, *qkv)
        return self.out(y_BTHV.flatten(-2)), stream.state
