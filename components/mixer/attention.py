from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Literal, TypeAlias

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
from archlab.components.attention._window_state import Entries

from ._value_residual import WeightedValues, given_values, mix_values, with_shared_values

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
        "share_kv": choice(False, True),
    },
    params=PARAMS | {"value_residual.mix.weights": Param("vector")},
    # A norm of all heads together needs them together: without a plan of its own it keeps all of the mixer whole.
    tensor=TensorPlan(parts=("attention", "wide_*_norm")),
)
class MultiHeadAttention(Recurrent):
    """Multi-head attention (arXiv:1706.03762), with keys and values shared by groups of heads (arXiv:2305.13245).

    x: [B, T, D] -> [B, T, D].
    Raises ValueError where num_heads does not divide D, where num_kv_heads does not divide num_heads, for a norm of
    queries and keys with a state, or for share_kv with a value_residual or with an attention function without a window.

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
        share_kv: Whether keys and values are those of the nearest earlier layer that has its own, with the same
            num_kv_heads, head_dim, window and rotation: cross-layer attention (arXiv:2405.12981), YOCO's upper half
            (arXiv:2405.05254) and Gemma 3n's last layers. The first layer of its kind keeps its own.
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
        share_kv: bool = False,
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
        if share_kv and value_residual:
            raise ValueError("share_kv leaves no values of the layer's own, which value_residual would mix")
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
        self.share_kv, self.takes_kv = share_kv, False
        if share_kv and self.kv_kind is None:
            raise ValueError(f"share_kv: {type(self.attention).__name__} has no window of keys and values to share")

    @property
    def kv_kind(self) -> Hashable:
        """Properties that layers must have in common to share keys and values, or None if they cannot."""
        return getattr(self.attention, "kv_kind", None)

    def give_kv(self) -> None:
        """Have later layers use the keys and values, which are returned beside the output."""
        self.attention.gives = True

    def take_kv(self) -> None:
        """Use the keys and values of an earlier layer, without parameters and a state for own ones."""
        self.takes_kv = self.attention.takes = True
        del self.key, self.value, self.key_norm, self.wide_key_norm

    def forward(
        self,
        x_BTD: Tensor,
        state: State | None = None,
        first_values_BTV: Tensor | None = None,
        kv: Entries | None = None,
    ) -> tuple[Tensor | tuple[Tensor, dict[str, Any]], State]:
        """Attend with every head, and project the concatenated outputs."""
        scope = StateScope(state)
        q_BTHK = self.query_norm(self._split(self.wide_query_norm(self.query(x_BTD))))
        given: dict[str, Any] = {}
        if self.takes_kv:
            y_BTHV = self._look_up(q_BTHK, kv)
        else:
            y_BTHV, given = self._attend(scope, q_BTHK, x_BTD, first_values_BTV)
        if self.gate is not None:
            y_BTHV = y_BTHV * self.gate(x_BTD).sigmoid().unflatten(-1, (y_BTHV.shape[2], -1))
        return with_shared_values(self.out(y_BTHV.flatten(-2)), given), scope.state

    def _look_up(self, q_BTHK: Tensor, kv: Entries | None) -> Tensor:
        """Attend to the keys and values of an earlier layer."""
        assert kv is not None, "the backbone that had this layer take keys and values calls it without them"
        num_heads = list(kv.values())[-1].shape[2]
        if num_heads != self.attention.shape.num_kv_heads:
            problem = f"keys and values of {num_heads} heads for {self.attention.shape.num_kv_heads}"
            raise ValueError(f"{problem}: ranks divide one of two layers that share them, and the other not")
        y_BTHV: Tensor = self.attention.look_up(q_BTHK, kv)
        return y_BTHV

    def _attend(
        self, scope: StateScope, q_BTHK: Tensor, x_BTD: Tensor, first_values_BTV: Tensor | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Attend to own keys and values; return those that other layers use, too."""
        v_BTV = mix_values(self.value_residual, self.value(x_BTD), first_values_BTV, x_BTD)
        k_BTGK = self.key_norm(self._split(self.wide_key_norm(self.key(x_BTD))))
        y = scope("attention", self.attention, q_BTHK, k_BTGK, self._split(v_BTV), *self._conditions(x_BTD))
        given = given_values(self.value_residual, v_BTV)
        return (y[0], given | {"kv": y[1]}) if isinstance(y, tuple) else (y, given)

    def _split(self, x_BTV: Tensor) -> Tensor:
        return x_BTV.unflatten(-1, (-1, self.head_dim))

    def _conditions(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        """Return further arguments of the attention function from the input."""
        return ()
