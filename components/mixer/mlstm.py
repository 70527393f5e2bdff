from __future__ import annotations

from typing import Annotated, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Heads, Param, Positive, Range, Recurrent, State, TensorPlan, Width, choice, register
from archlab.components._init import Init, linear
from archlab.components.norm.group import GroupNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.gated_linear import gated_linear

from ._heads import head_width, heads

# Gates grow exponentially: below e^40, sums of a trillion tokens stay finite in float32 without being rescaled.
Cap: TypeAlias = Annotated[float, Range(low=0, above=True, high=40)]
ADDED = 1e-6  # to the denominator


@register(
    "mixer",
    "mlstm",
    search={"num_heads": choice(1, 2, 4, 8), "gate_cap": choice(5.0, 15.0, 30.0)},
    params={
        "query.weight": Param("hidden", tensor="column"),
        "key.weight": Param("hidden", tensor="column"),
        "value.weight": Param("hidden", tensor="column"),
        "*_gate.weight": Param("hidden", tensor="column"),
        "*_gate.bias": Param("vector", tensor="column"),
        "out.weight": Param("hidden", tensor="row", branch=True),
    },
    tensor=TensorPlan(counts=("num_heads",), parts=("norm",)),
)
class MLSTM(Recurrent):
    """The matrix LSTM of xLSTM: a matrix per head with an exponential input gate (arXiv:2405.04517).

    x: [B, T, D] -> [B, T, D].  State: sums [B, H, K, V + 1] in at least float32, the last column those of the keys,
    and the log of the largest gate, decayed, [B, H].
    S_t = f S_{t-1} + i k^T v and n_t = f n_{t-1} + i k, with i = exp(cap(W x + b)) and f = sigmoid(cap(W x + b)) per
    head (eqs. 19 to 25); q S / max(|q n|, 1) is normalized per head, gated by a sigmoid and projected.
    Raises ValueError where num_heads does not divide one of the widths.
    Deviations: as in xLSTM-7B (arXiv:2503.13427), gates are capped and there is no convolution around the cell. Thus
    bounded, sums are kept as they are, and not divided by the largest gate; only the 1e-6 that the authors' code adds
    to a denominator so divided is multiplied by it.

    Args:
        num_heads: Number of heads.
        key_dim: Width of queries and keys over all heads; null for D / 2.
        value_dim: Width of values over all heads; null for D.
        gate_cap: Bound c of the preactivations of the two gates, each of which becomes c * tanh(x / c).
        eps: Constant added to the variance in the output norm.
        init: Distribution of the projections' weights; those of the two gates are 0.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        key_dim: Width | None = None,
        value_dim: Width | None = None,
        gate_cap: Cap = 15.0,
        eps: Positive = 1e-6,
        init: Init = "he",
    ) -> None:
        super().__init__()
        key_dim, value_dim = key_dim or max(1, dim // 2), value_dim or dim
        self.num_heads, self.gate_cap = num_heads, gate_cap
        self.head_dims = (head_width("key_dim", key_dim, num_heads), head_width("value_dim", value_dim, num_heads))
        self.query = linear(dim, key_dim, bias=False, init=init)
        self.key = linear(dim, key_dim, bias=False, init=init)
        self.value = linear(dim, value_dim, bias=False, init=init)
        self.input_gate = linear(dim, num_heads, bias=True, init=init)
        self.forget_gate = linear(dim, num_heads, bias=True, init=init)
        self.output_gate = linear(dim, value_dim, bias=False, init=init)
        # A scale that is its weight, as in checkpoints of xLSTM.
        self.norm = GroupNorm(value_dim, num_groups=num_heads, eps=eps, zero_centered=False, bias=False)
        self.out = linear(value_dim, dim, bias=False, init=init)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin with gates that do not depend on the token: inputs of e^-10, and memories of 20 to 400 tokens."""
        for gate in (self.input_gate, self.forget_gate):
            nn.init.zeros_(gate.weight)
        nn.init.constant_(self.input_gate.bias, -10.0)
        bias = self.forget_gate.bias
        bias.copy_(torch.linspace(3.0, 6.0, self.num_heads, device=bias.device))
        # Further out than twice its cap, tanh is 1 in float32, and a gate would never be trained.
        for gate in (self.input_gate, self.forget_gate):
            gate.bias.clamp_(-2 * self.gate_cap, 2 * self.gate_cap)

    def init_state(self, batch_size: int) -> State:
        """Return empty sums."""
        (K, V), like = self.head_dims, at_least_float32(self.query.weight)
        sums = like.new_zeros(batch_size, self.num_heads, K, V + 1)
        return {"sums": sums, "largest": like.new_zeros(batch_size, self.num_heads)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read the gated sums of keys and values with each query, normalize, gate and project."""
        state = state or self.init_state(x_BTD.shape[0])
        q, k, v = (heads(part(x_BTD), self.num_heads) for part in (self.query, self.key, self.value))
        log_input, log_decay = self._capped(self.input_gate, x_BTD), F.logsigmoid(self._capped(self.forget_gate, x_BTD))
        largest_BTH = _largest(log_input, log_decay, state["largest"])
        # With a value of one, the sums of the keys are a further column of the matrix.
        k_BTHK, wide = at_least_float32(k) * log_input.exp()[..., None], F.pad(at_least_float32(v), (0, 1), value=1.0)
        y, sums = gated_linear(q * self.head_dims[0] ** -0.5, k_BTHK, wide, log_decay[..., None], state["sums"])
        below = y[..., -1:].abs().clamp(min=1.0) + ADDED * largest_BTH.exp()[..., None]
        mixed = self.norm((y[..., :-1] / below).flatten(-2)).to(v.dtype)
        last = largest_BTH[:, -1].clone()
        return self.out(torch.sigmoid(self.output_gate(x_BTD)) * mixed), {"sums": sums, "largest": last}

    def _capped(self, gate: nn.Module, x_BTD: Tensor) -> Tensor:
        """Return the preactivation of a gate [B, T, H], within the cap."""
        capped: Tensor = self.gate_cap * (at_least_float32(gate(x_BTD)) / self.gate_cap).tanh()
        return capped


def _largest(log_input_BTH: Tensor, log_decay_BTH: Tensor, before_BH: Tensor) -> Tensor:
    """Return m_t = max(log f_t + m_{t-1}, log i_t) [B, T, H]: a running maximum, once the sums of log f are taken off.

    Sums over long texts round m; it only scales a millionth.
    """
    decayed_BTH = log_decay_BTH.cumsum(1)
    candidates = torch.cat((before_BH[:, None], log_input_BTH - decayed_BTH), 1)
    return decayed_BTH + candidates.cummax(1).values[:, 1:]
