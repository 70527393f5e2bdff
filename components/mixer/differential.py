from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import (
    Count,
    Factory,
    Fraction,
    Heads,
    Param,
    Positive,
    Recurrent,
    State,
    StateScope,
    TensorPlan,
    choice,
    register,
    slot,
)
from archlab.components._init import Init, linear
from archlab.components.attention._shape import AttentionShape
from archlab.ops.dtypes import at_least_float32

_MAPS = 2
_STD = 0.1  # of the vectors whose products give lambda
PARAMS = {
    "query.weight": Param("hidden", tensor="column", scale={"attention.score_size": -1.0}),
    "query.bias": Param("vector", tensor="column", scale={"attention.score_size": -1.0}),
    "key.weight": Param("hidden", tensor="column"),
    "key.bias": Param("vector", tensor="column"),
    "value.weight": Param("hidden", tensor="column"),
    "value.bias": Param("vector", tensor="column"),
    "out.weight": Param("hidden", tensor="row", branch=True),
    "out.bias": Param("vector", branch=True),
    "lambda_query": Param("vector"),
    "lambda_key": Param("vector"),
}


@register(
    "mixer",
    "differential",
    search={"num_heads": choice(1, 2, 4), "init_lambda": choice(0.2, 0.5, 0.8)},
    params=PARAMS,
    tensor=TensorPlan(parts=("attention", "norm")),
)
class DifferentialAttention(Recurrent):
    """Differential attention (arXiv:2410.05258): of two attentions to the same values the second is subtracted.

    x: [B, T, D] -> [B, T, D].
    Each head has two queries and keys of head_dim channels and values of twice as many, and its output is

        (1 - init_lambda) norm(y_1 - lambda y_2), lambda = exp(lq_1 . lk_1) - exp(lq_2 . lk_2) + init_lambda.

    Raises ValueError where 2 num_heads does not divide D, or num_kv_heads does not divide num_heads.

    Args:
        num_heads: Number of heads, each with two attentions.
        num_kv_heads: Number of heads of keys and values; null for one per head.
        head_dim: Width of a query; null for D / (2 num_heads).
        scale: Factor of the scores; null for 1 / sqrt(head_dim).
        init_lambda: The initial value of lambda; the paper takes 0.8 - 0.6 exp(-0.3 l) in layer l, counted from 0.
        norm: Norm of each head's output.
        bias: Whether the projections have a bias.
        init: Distribution of the projections' weights.
        attention: Attention function of both.
        position: Positions that rotate queries and keys, or add a bias to the scores.

    Deviations:
        The state keeps values twice, once for each attention.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        num_kv_heads: Heads | None = None,
        head_dim: Count | None = None,
        scale: Positive | None = None,
        init_lambda: Fraction = 0.8,
        norm: Factory = slot("norm", "rms"),
        bias: bool = False,
        init: Init = "he",
        attention: Factory = slot("attention", "softmax"),
        position: Factory = slot("position", "rope"),
    ) -> None:
        super().__init__()
        num_kv_heads = num_kv_heads or num_heads
        if head_dim is None and dim % (_MAPS * num_heads):
            raise ValueError(f"dim {dim} is not divisible by twice num_heads {num_heads}")
        if num_heads % num_kv_heads:
            raise ValueError(f"num_heads {num_heads} is not divisible by num_kv_heads {num_kv_heads}")
        self.head_dim = head_dim or dim // (_MAPS * num_heads)
        self.sharing, self.init_lambda = num_heads // num_kv_heads, init_lambda
        width = _MAPS * self.head_dim  # of two queries, two keys, or a value
        self.query = linear(dim, num_heads * width, bias=bias, init=init)
        self.key, self.value = (linear(dim, num_kv_heads * width, bias=bias, init=init) for _ in range(2))
        self.out = linear(num_heads * width, dim, bias=bias, init=init)
        self.norm = norm(width)
        if isinstance(self.norm, Recurrent):
            raise ValueError(f"norm {type(self.norm).__name__} has a state, which a norm of heads cannot have")
        scale = self.head_dim**-0.5 if scale is None else scale
        shape = AttentionShape(_MAPS * num_heads, _MAPS * num_kv_heads, self.head_dim, width, scale)
        self.attention = attention(shape, position(_MAPS * num_heads, self.head_dim).require_place("attention"))
        self.lambda_query = nn.Parameter(torch.empty(_MAPS, self.head_dim))
        self.lambda_key = nn.Parameter(torch.empty(_MAPS, self.head_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors that give lambda."""
        nn.init.normal_(self.lambda_query, std=_STD)
        nn.init.normal_(self.lambda_key, std=_STD)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Attend twice with every head, subtract, normalize and project."""
        scope = StateScope(state)
        # Heads are ordered by key head, attention, query, so that ranks which divide them divide pairs of attentions
        # from one another and never a pair.
        q, k = (part.unflatten(-1, (-1, self.head_dim)) for part in (self.query(x_BTD), self.key(x_BTD)))
        v_BTGV = self.value(x_BTD).unflatten(-1, (-1, _MAPS * self.head_dim)).repeat_interleave(_MAPS, -2)
        y_BTHV = scope("attention", self.attention, q, k, v_BTGV)
        first, second = y_BTHV.unflatten(-2, (-1, _MAPS, self.sharing)).unbind(-3)
        difference = (first - self._lambda().to(first.dtype) * second).flatten(-3, -2)
        return self.out((self.norm(difference) * (1 - self.init_lambda)).flatten(-2)), scope.state

    def _lambda(self) -> Tensor:
        first, second = (at_least_float32(self.lambda_query) * self.lambda_key).sum(-1).exp().unbind()
        return first - second + self.init_lambda
