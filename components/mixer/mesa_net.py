from __future__ import annotations

import math
from typing import Annotated, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import (
    Factory,
    Heads,
    Param,
    Positive,
    Range,
    Recurrent,
    State,
    StateScope,
    TensorPlan,
    Width,
    choice,
    register,
    slot,
)
from archlab.components._dt import softplus
from archlab.components._init import Init, linear
from archlab.components.norm.rms import RMSNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.mesa import mesa

from ._heads import MIXED_PARAMS, ConvProjection, GatedOutput, head_width, heads, l2_normalize

# Each is a product with the keys of a chunk.
Steps: TypeAlias = Annotated[int, Range(low=1, high=256)]


@register(
    "mixer",
    "mesa_net",
    search={"num_heads": choice(1, 2, 4, 8), "num_steps": choice(4, 8, 16, 32), "gate": choice(False, True)},
    params={
        "query.map.weight": Param("hidden", tensor="column"),
        "key.map.weight": Param("hidden", tensor="column"),
        "value.weight": Param("hidden", tensor="column"),
        "fraction.weight": Param("hidden", tensor="column"),
        "fraction.bias": Param("vector", tensor="heads"),
        "decay.weight": Param("hidden", tensor="column"),
        "decay.bias": Param("vector", tensor="heads"),
        "ridge": Param("vector", tensor="column"),
        **MIXED_PARAMS,
    },
    tensor=TensorPlan(counts=("num_heads",), parts=("*.ema",)),
)
class MesaNet(Recurrent):
    """The mesa layer, a linear map fitted to all keys and values so far, applied to the query (arXiv:2506.05233).

    x: [B, T, D] -> [B, T, D].  State: that of the convolutions, and sums [B, H, K, K + V] in at least float32, of keys
    with keys and of keys with values.
    The map minimizes sum_s w_ts |v_s - k_s M|² + tr(Mᵀ diag(ridge) M), with w_ts = beta_s times the decays after s, a
    ridge of softplus(.) + min_ridge for each channel of the keys, and beta and decay sigmoids of the token. Each output
    takes `num_steps` steps of conjugate gradients and two of refinement; gradients are those of the exact solution.
    Raises ValueError where num_heads does not divide one of the widths.
    Deviations: steps begin at 0, and all tokens have as many.

    Args:
        num_heads: Number of heads.
        key_dim: Width of queries and keys over all heads; null for D.
        value_dim: Width of values over all heads; null for D.
        num_steps: Number of steps of conjugate gradients; as many as a key has channels are exact.
        min_ridge: Lower bound of the ridge.
        ema: Moving average or short convolution after the projections of queries and keys.
        gate: Whether the output is multiplied by a gate silu(W x).
        eps: Constant added to the mean square in the output norm.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        key_dim: Width | None = None,
        value_dim: Width | None = None,
        num_steps: Steps = 30,
        min_ridge: Positive = 0.25,
        ema: Factory = slot("ema", "short_conv"),
        gate: bool = False,
        eps: Positive = 1e-5,
        init: Init = "he",
    ) -> None:
        super().__init__()
        key_dim, value_dim = key_dim or dim, value_dim or dim
        self.head_dims = (head_width("key_dim", key_dim, num_heads), head_width("value_dim", value_dim, num_heads))
        self.num_heads, self.num_steps, self.min_ridge = num_heads, num_steps, min_ridge
        self.exact_gradients = num_steps >= self.head_dims[0]
        self.query = ConvProjection(dim, key_dim, ema=ema, init=init)
        self.key = ConvProjection(dim, key_dim, ema=ema, init=init)
        self.value = linear(dim, value_dim, bias=False, init=init)
        self.fraction = linear(dim, num_heads, bias=True, init=init)
        self.decay = linear(dim, num_heads, bias=True, init=init)
        self.ridge = nn.Parameter(torch.empty(key_dim))
        norm = RMSNorm(self.head_dims[1], eps=eps)
        self.mixed = GatedOutput(dim, value_dim, norm=norm, joined=False, gated=gate, init=init)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begin with a ridge of 1, or of twice its lower bound where that is more than a half."""
        above = max(1.0 - self.min_ridge, self.min_ridge)
        nn.init.constant_(self.ridge, above + math.log(-math.expm1(-above)))  # the inverse of softplus

    def init_state(self, batch_size: int) -> State:
        """Return empty sums."""
        K, V = self.head_dims
        sums = at_least_float32(self.ridge).new_zeros(batch_size, self.num_heads, K, K + V)
        return super().init_state(batch_size) | {"sums": sums}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Fit the map to all keys and values, apply it to the query, normalize and project."""
        scope = StateScope(state)
        q, k = (
            l2_normalize(heads(scope(name, part, x_BTD), self.num_heads))
            for name, part in (("query", self.query), ("key", self.key))
        )
        beta, log_decay = self.fraction(x_BTD).sigmoid(), F.logsigmoid(at_least_float32(self.decay(x_BTD)))
        ridge_HK = (softplus(at_least_float32(self.ridge)) + self.min_ridge).unflatten(0, (self.num_heads, -1))
        sums = state["sums"] if state else None
        v_BTHV = heads(self.value(x_BTD), self.num_heads)
        y_BTHV, sums = mesa(q, k, v_BTHV, beta, log_decay, ridge_HK, sums, self.num_steps)
        return self.mixed(y_BTHV, x_BTD), scope.state | {"sums": sums}
