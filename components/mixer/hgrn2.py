from __future__ import annotations

from typing import Annotated, TypeAlias

from torch import Tensor
from torch.nn import functional as F

from archlab import Heads, Positive, Range, Recurrent, State, TensorPlan, Width, choice, interval, register
from archlab.components._init import Init, linear
from archlab.components.norm.rms import RMSNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.gated_linear import gated_linear

from ._heads import QKV_PARAMS, GatedOutput, head_width, heads

Bound: TypeAlias = Annotated[float, Range(low=0, high=0.999)]  # at 1 a step would add nothing


@register(
    "mixer",
    "hgrn2",
    search={"num_heads": choice(1, 2, 4, 8), "lower_bound": interval(0.0, 0.95)},
    params={name: param for name, param in QKV_PARAMS.items() if name != "mixed.gate.weight"},
    # The norm reads all heads together: without a plan of its own it keeps all of the mixer whole.
    tensor=TensorPlan(counts=("num_heads",), parts=("mixed.norm",)),
)
class HGRN2(Recurrent):
    """Gated linear attention whose keys are 1 - a for its decays a, HGRN2 (arXiv:2404.07904).

    x: [B, T, D] -> [B, T, D].  State: sums [B, H, K, V] in at least float32.  S_t = diag(a) S_{t-1} + (1 - a)^T v, read
    by silu(W x), with decays a = l + (1 - l) sigmoid(W x) above a lower bound l.
    Raises ValueError where num_heads does not divide one of the widths.
    Deviations: the lower bound is a knob of each layer, rather than learned for all layers together, since a layer
    knows no other. As in the authors' code, reads are divided by sqrt(K).

    Args:
        num_heads: Number of heads.
        key_dim: Number of decays over all heads, by which a head's state is expanded; null for D.
        value_dim: Width of values over all heads; null for D.
        lower_bound: Smallest decay; in the paper it rises from 0 in the first layer towards 1 in the last.
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
        lower_bound: Bound = 0.0,
        eps: Positive = 1e-5,
        init: Init = "he",
    ) -> None:
        super().__init__()
        key_dim, value_dim = key_dim or dim, value_dim or dim
        self.num_heads, self.lower_bound = num_heads, lower_bound
        self.head_dims = (head_width("key_dim", key_dim, num_heads), head_width("value_dim", value_dim, num_heads))
        self.query = linear(dim, key_dim, bias=False, init=init)
        self.key = linear(dim, key_dim, bias=False, init=init)
        self.value = linear(dim, value_dim, bias=False, init=init)
        norm = RMSNorm(value_dim, eps=eps)
        self.mixed = GatedOutput(dim, value_dim, norm=norm, joined=True, gated=False, init=init)

    def init_state(self, batch_size: int) -> State:
        """Return empty sums."""
        sums = at_least_float32(self.query.weight).new_zeros(batch_size, self.num_heads, *self.head_dims)
        return {"sums": sums}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read the decayed sums of keys and values with each query."""
        q, v = F.silu(self.query(x_BTD)) * self.head_dims[0] ** -0.5, self.value(x_BTD)
        forget = at_least_float32(self.key(x_BTD))
        k, log_decay = (1 - self.lower_bound) * (-forget).sigmoid(), self._log_decay(forget)
        q, k, v, log_decay = (heads(part, self.num_heads) for part in (q, k, v, log_decay))
        y_BTHV, sums = gated_linear(q, k, v, log_decay, state["sums"] if state else None)
        return self.mixed(y_BTHV, x_BTD), {"sums": sums}

    def _log_decay(self, forget: Tensor) -> Tensor:
        """Return log(l + (1 - l) sigmoid(forget)), which without a bound must not underflow."""
        bound = self.lower_bound
        return F.logsigmoid(forget) if bound == 0 else (bound + (1 - bound) * forget.sigmoid()).log()
