"""The mixer by the delta rule, which DeltaNet and its descendants specialize."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Factory, Param, Recurrent, State, StateScope, TensorPlan
from archlab.components._dt import init_dt_bias_, softplus
from archlab.components._init import Init, linear
from archlab.components.mixer._heads import MIXED_PARAMS, ConvProjection, GatedOutput, head_width, heads, l2_normalize
from archlab.components.norm.rms import RMSNorm
from archlab.ops.delta_rule import delta_product, delta_rule
from archlab.ops.dtypes import at_least_float32

PARAMS: dict[str, Param] = {
    "query.map.weight": Param("hidden", tensor="column"),
    "key.map.weight": Param("hidden", tensor="column"),
    "value.map.weight": Param("hidden", tensor="column"),
    "fraction.weight": Param("hidden", tensor="column"),
    **MIXED_PARAMS,
}
GATED_PARAMS: dict[str, Param] = {
    **PARAMS,
    "step.weight": Param("hidden", tensor="column"),
    "step.bias": Param("vector", tensor="heads"),
    "log_rate": Param("vector", tensor="heads"),
}
PLAN = TensorPlan(counts=("num_heads",), parts=("*.ema",))


class DeltaRule(Recurrent):
    """A matrix per head whose values for some keys are corrected by fractions beta of their errors, the delta rule.

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
        num_corrections: int = 1,
        values_per_key: int = 1,
        zero_centered: bool = True,
    ) -> None:
        super().__init__()
        num_matrices = num_heads * values_per_key
        counted_as = "num_heads" if values_per_key == 1 else "num_heads * values_per_key"
        # I - beta k^T k has the eigenvalue 1 - beta along k, for beta = 2 sigmoid(.) between -1 and 1.
        self.num_heads, self.max_beta = num_heads, 2.0 if negative_eigenvalues else 1.0
        self.num_corrections, self.values_per_key = num_corrections, values_per_key
        value_width = head_width("value_dim", value_dim, num_matrices, counted_as)
        self.head_dims = (head_width("key_dim", key_dim, num_heads), value_width)
        self.query = ConvProjection(dim, key_dim, ema=ema, init=init)
        self.key = ConvProjection(dim, num_corrections * key_dim, ema=ema, init=init)
        self.value = ConvProjection(dim, num_corrections * value_dim, ema=ema, init=init)
        self.fraction = linear(dim, num_corrections * num_matrices, bias=False, init=init)
        norm = RMSNorm(self.head_dims[1], eps=eps, zero_centered=zero_centered)
        self.mixed = GatedOutput(dim, value_dim, norm=norm, joined=False, gated=gate, init=init)

    @property
    def num_matrices(self) -> int:
        """The number of heads of values, each of which has a matrix."""
        return self.num_heads * self.values_per_key

    def log_decay(self, x_BTD: Tensor) -> Tensor | None:
        """Return the logs of the decays of each step [B, T, H], or of key channels [B, T, H, K], or None for none."""
        return None

    def output(self, y_BTHV: Tensor, x_BTD: Tensor) -> Tensor:
        """Return the output from the queries' reads of the matrix."""
        mixed: Tensor = self.mixed(y_BTHV, x_BTD)
        return mixed

    def init_state(self, batch_size: int) -> State:
        """Return empty sums."""
        sums = at_least_float32(self.fraction.weight).new_zeros(batch_size, self.num_matrices, *self.head_dims)
        return super().init_state(batch_size) | {"sums": sums}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Correct the matrix by each key and value, then read it with the query."""
        scope = StateScope(state)
        q, k, v = (
            heads(scope(name, part, x_BTD), count)
            for name, part, count in (
                ("query", self.query, self.num_heads),
                ("key", self.key, self.num_heads),
                ("value", self.value, self.num_matrices),
            )
        )
        beta = torch.sigmoid(at_least_float32(heads(self.fraction(x_BTD), self.num_matrices))) * self.max_beta
        # A head's keys, values and fractions of all its corrections are adjacent, so that heads can be divided.
        k, v, beta = (x.unflatten(-1, (self.num_corrections, -1)).transpose(2, 3) for x in (k, v, beta))
        q, k = (self._share(x) for x in (l2_normalize(q) * self.head_dims[0] ** -0.5, l2_normalize(k)))
        y_BTHV, sums = self._run(q, k, v, beta[..., 0], self.log_decay(x_BTD), state["sums"] if state else None)
        return self.output(y_BTHV, x_BTD), scope.state | {"sums": sums}

    def _share(self, x: Tensor) -> Tensor:
        """Repeat each head of queries or keys [..., H, K] for its heads of values, which are adjacent."""
        return x if self.values_per_key == 1 else x.repeat_interleave(self.values_per_key, -2)

    def _run(
        self, q_BTHK: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, sums: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.num_corrections == 1:
            return delta_rule(q_BTHK, k[:, :, 0], v[:, :, 0], beta[:, :, 0], log_decay, sums)
        return delta_product(q_BTHK, k, v, beta, log_decay, sums)


class GatedDeltaRule(DeltaRule):
    """The delta rule with Mamba-2's decay, a = exp(-rate * softplus(W x + bias)) per head and step."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        ema: Factory,
        negative_eigenvalues: bool,
        eps: float,
        init: Init,
        num_corrections: int = 1,
        values_per_key: int = 1,
        zero_centered: bool = True,
    ) -> None:
        super().__init__(
            dim,
            num_heads=num_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            ema=ema,
            gate=True,
            negative_eigenvalues=negative_eigenvalues,
            eps=eps,
            init=init,
            num_corrections=num_corrections,
            values_per_key=values_per_key,
            zero_centered=zero_centered,
        )
        self.step = linear(dim, self.num_matrices, bias=True, init=init)
        self.log_rate = nn.Parameter(torch.empty(self.num_matrices))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw rates from U(0, 16), at least 0.001, and time steps log-uniformly from 0.001 to 0.1, as in Mamba-2."""
        self.log_rate.uniform_(0, 16).clamp_(min=1e-3).log_()
        init_dt_bias_(self.step.bias, 1e-3, 0.1)

    def log_decay(self, x_BTD: Tensor) -> Tensor:
        """Return -rate * dt with dt = softplus(W x + bias)."""
        return -at_least_float32(self.log_rate).exp() * softplus(at_least_float32(self.step(x_BTD)))
