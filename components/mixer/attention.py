from __future__ import annotations

from typing import Literal, TypeAlias

from torch import Tensor

from archlab import (
    Count,
    Factory,
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
from archlab.components._init import Init, InitLinear, linear
from archlab.components.attention._shape import AttentionShape

from ._value_residual import WeightedValues, mix_values, with_values

OutputGate: TypeAlias = Literal["none", "head", "feature"]

PARAMS = {
    "query.weight": Param("hidden", tensor="column", scale={"attention.score_size": -1.0}),
    "query.bias": Param("vector", tensor="column", scale={"attention.score_size": -1.0}),
    "key.weight": Param("hidden", tensor="column"),
    "key.bias": Param("vector", tensor="column"),
    "value.weight": Param("hidden", tensor="column"),
    "value.bias": Param("vector", tensor="column"),
    "gate.weight": Param("hidden", tensor="column"),
    "gate.bias": Param("vector", tensor="column"),
    "out.weight": Param("hidden", tensor="row", branch=True),
    "out.bias": Param("vector", branch=True),
}


@register(
    "mixer",
    "attention",
    search={
        "num_heads": choice(1, 2, 4, 8),
        "output_gate": choice("none", "head", "feature"),
        "value_residual": choice(False, True),
    },
    params=PARAMS | {"value_residual.mix.weights": Param("vector")},
    # A norm of all heads together needs them together: without a plan of its own it keeps all of the mixer whole.
    tensor=TensorPlan(parts=("attention", "wide_*_norm")),
)
class MultiHeadAttention(Recurrent):
    """Multi-head attention (arXiv:1706.03762), with keys and values shared by groups of heads (arXiv:2305.13245).

    x: [B, T, D] -> [B, T, D].
    Raises ValueError where num_heads does not divide D, where num_kv_heads does not divide num_heads, or for a norm of
    queries and keys with a state.

    Args:
        num_heads: Number of query heads.
        num_kv_heads: Number of key and value heads; null for one per query head.
        head_dim: Width of a head; null for D / num_heads.
        scale: Factor of the scores; null for 1 / sqrt(head_dim).
        qk_norm: Norm of each head's query, and another of each head's key, before positions (arXiv:2010.04245).
        wide_qk_norm: Norm of all heads' queries together, and another of their keys, before qk_norm (OLMoE,
            arXiv:2409.02060).
        output_gate: Whether the output is multiplied by the sigmoid of a projection of x (arXiv:2505.06708), which is
            one number per `head` or per `feature` of every head, or by `none`.
        value_residual: Whether the values of the first layer with a value residual are added to those of this one, with
            two learned weights (ResFormer, arXiv:2410.17897); the first itself adds nothing.
        bias: Whether the projections have a bias.
        out_bias: Whether the output's projection has a bias; null where the others have one.
        init: Distribution of the projections' weights.
        attention: Attention function of the heads.
        position: Positions that rotate queries and keys, or add a bias to the scores.
    """

    gate: InitLinear | None
    value_residual: WeightedValues | None

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        num_kv_heads: Heads | None = None,
        head_dim: Count | None = None,
        scale: Positive | None = None,
        qk_norm: Factory = slot("norm", "none"),
        wide_qk_norm: Factory = slot("norm", "none"),
        output_gate: OutputGate = "none",
        value_residual: bool = False,
        bias: bool = False,
        out_bias: bool | None = None,
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
        self.value_residual = WeightedValues(num_kv_heads * self.head_dim) if value_residual else None
        out_bias = bias if out_bias is None else out_bias
        self.out = linear(num_heads * self.head_dim, dim, bias=out_bias, init=init)
        gates = {"none": 0, "head": num_heads, "feature": num_heads * self.head_dim}[output_gate]
        self.gate = linear(dim, gates, bias=bias, init=init) if gates else None
        self.query_norm, self.key_norm = qk_norm(self.head_dim), qk_norm(self.head_dim)
        self.wide_query_norm = wide_qk_norm(num_heads * self.head_dim)
        self.wide_key_norm = wide_qk_norm(num_kv_heads * self.head_dim)
        for knob, norm in (("qk_norm", self.query_norm), ("wide_qk_norm", self.wide_query_norm)):
            if isinstance(norm, Recurrent):
                raise ValueError(f"{knob} {type(norm).__name__} has a state, which a norm of heads cannot have")
        scale = self.head_dim**-0.5 if scale is None else scale
        shape = AttentionShape(num_heads, num_kv_heads, self.head_dim, self.head_dim, scale)
        self.attention = attention(shape, position(num_heads, self.head_dim).require_place("attention"))

    def forward(
        self, x_BTD: Tensor, state: State | None = None, first_values_BTV: Tensor | None = None
    ) -> tuple[Tensor | tuple[Tensor, Tensor], State]:
        """Attend with every head, and project the concatenated outputs."""
        scope = StateScope(state)
        v_BTV = mix_values(self.value_residual, self.value(x_BTD), first_values_BTV, x_BTD)
        parts = self.wide_query_norm(self.query(x_BTD)), self.wide_key_norm(self.key(x_BTD)), v_BTV
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
        y_BTHV = scope("attention", self.attention, self.query_norm(q), self.key_norm(k), v, *self._conditions(x_BTD))
        if self.gate is not None:
            y_BTHV = y_BTHV * self.gate(x_BTD).sigmoid().unflatten(-1, (y_BTHV.shape[2], -1))
        return with_values(self.value_residual, self.out(y_BTHV.flatten(-2)), v_BTV), scope.state

    def _conditions(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        """Return what the attention function reads of the input beside queries, keys and values."""
        return ()
