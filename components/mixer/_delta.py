"""The mixer by the delta rule, which DeltaNet and Gated DeltaNet specialize."""

from __future__ import annotations

import torch
from torch import Tensor

from archlab import Factory, Param, Recurrent, State, StateScope, TensorPlan
from archlab.components._init import Init, linear
from archlab.components.mixer._heads import MIXED_PARAMS, ConvProjection, GatedOutput, head_width, heads, l2_normalize
from archlab.components.norm.rms import RMSNorm
from archlab.ops.delta_rule import delta_rule
from archlab.ops.dtypes import at_least_float32

PARAMS: dict[str, Param] = {
    "query.map.weight": Param("hidden", tensor="column"),
    "key.map.weight": Param("hidden", tensor="column"),
    "value.map.weight": Param("hidden", tensor="column"),
    "fraction.weight": Param("hidden", tensor="column"),
    **MIXED_PARAMS,
}
PLAN = TensorPlan(counts=("num_heads",), parts=("*.ema",))


class DeltaRule(Recurrent):
    """A matrix per head whose value for a key is corrected by a fraction beta of its error, the delta rule.

    x: [B, T, D] -> [B, T, D].  State: that of the convolutions, and sums [B, H, K, V] in at least float32.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        ema: Factory,
        gate: bool,
        negative_eigenvalues: bool,
        eps: float,
        init: Init,
    ) -> None:
        super().__init__()
        # I - beta k^T k has the eigenvalue 1 - beta along k, for beta = 2 sigmoid(.) between -1 and 1.
        self.num_heads, self.max_beta = num_heads, 2.0 if negative_eigenvalues else 1.0
        self.head_dims = (head_width("key_dim", key_dim, num_heads), head_width("value_dim", value_dim, num_heads))
        self.query = ConvProjection(dim, key_dim, ema=ema, init=init)
        self.key = ConvProjection(dim, key_dim, ema=ema, init=init)
        self.value = ConvProjection(dim, value_dim, ema=ema, init=init)
        self.fraction = linear(dim, num_heads, bias=False, init=init)
        norm = RMSNorm(self.head_dims[1], eps=eps)
        self.mixed = GatedOutput(dim, value_dim, norm=norm, joined=False, gated=gate, init=init)

    def log_decay(self, x_BTD: Tensor) -> Tensor | None:
        """Return the logarithm of the decay of the matrix at each step [B, T, H], or None for no decay."""
        return None

    def init_state(self, batch_size: int) -> State:
        """Return empty sums."""
        sums = at_least_float32(self.fraction.weight).new_zeros(batch_size, self.num_heads, *self.head_dims)
        return super().init_state(batch_size) | {"sums": sums}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Correct the matrix by each key and value, then read it with the query."""
        scope = StateScope(state)
        q, k, v = (
            heads(scope(name, part, x_BTD), self.num_heads)
            for name, part in (("query", self.query), ("key", self.key), ("value", self.value))
        )
        beta_BTH = torch.sigmoid(at_least_float32(self.fraction(x_BTD))) * self.max_beta
        scaled, sums = l2_normalize(q) * self.head_dims[0] ** -0.5, state["sums"] if state else None
        y_BTHV, sums = delta_rule(scaled, l2_normalize(k), v, beta_BTH, self.log_decay(x_BTD), sums)
        return self.mixed(y_BTHV, x_BTD), scope.state | {"sums": sums}
