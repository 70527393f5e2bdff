from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Heads, Param, Positive, Recurrent, State, TensorPlan, Width, choice, register
from archlab.components._init import Init, linear
from archlab.components.mixer._heads import QKV_PARAMS, GatedOutput, head_width, heads
from archlab.components.norm.rms import RMSNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.gated_linear import gated_linear


@register(
    "mixer",
    "gla",
    search={"num_heads": choice(1, 2, 4, 8), "temperature": choice(4.0, 8.0, 16.0, 32.0)},
    params={
        **QKV_PARAMS,
        "decay.0.weight": Param("output"),
        "decay.1.weight": Param("input", tensor="column"),
        "decay.1.bias": Param("vector", tensor="column"),
    },
    tensor=TensorPlan(counts=("num_heads",)),
)
class GatedLinearAttention(Recurrent):
    """Linear attention with a data-dependent decay per key channel, GLA section 4.4 (arXiv:2312.06635).

    x: [B, T, D] -> [B, T, D].  State: sums [B, H, K, V] in at least float32.  S_t = diag(a) S_{t-1} + k^T v, with
    a = sigmoid(W x + b)^(1 / temperature).
    Raises ValueError where num_heads does not divide one of the widths.
    Deviations: as in the authors' code, queries are divided by sqrt(K), and heads normalized by their root mean square.

    Args:
        num_heads: Number of heads.
        key_dim: Width of queries and keys over all heads; null for D / 2.
        value_dim: Width of values over all heads; null for D.
        rank: Rank of the matrix W of the decay.
        temperature: Root taken of the sigmoid; the larger, the slower the decay.
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
        rank: Count = 16,
        temperature: Positive = 16.0,
        eps: Positive = 1e-5,
        init: Init = "he",
    ) -> None:
        super().__init__()
        key_dim, value_dim = key_dim or max(1, dim // 2), value_dim or dim
        self.num_heads, self.temperature = num_heads, temperature
        self.head_dims = (head_width("key_dim", key_dim, num_heads), head_width("value_dim", value_dim, num_heads))
        self.query = linear(dim, key_dim, bias=False, init=init)
        self.key = linear(dim, key_dim, bias=False, init=init)
        self.value = linear(dim, value_dim, bias=False, init=init)
        self.decay = nn.Sequential(
            linear(dim, rank, bias=False, init=init), linear(rank, key_dim, bias=True, init=init)
        )
        norm = RMSNorm(self.head_dims[1], eps=eps)
        self.mixed = GatedOutput(dim, value_dim, norm=norm, joined=False, gated=True, init=init)

    def init_state(self, batch_size: int) -> State:
        """Return empty sums."""
        sums = at_least_float32(self.query.weight).new_zeros(batch_size, self.num_heads, *self.head_dims)
        return {"sums": sums}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read the decayed sums of keys and values with each query."""
        q, k, v = (heads(part(x_BTD), self.num_heads) for part in (self.query, self.key, self.value))
        log_decay = F.logsigmoid(at_least_float32(self.decay(x_BTD))) / self.temperature
        scaled = q * self.head_dims[0] ** -0.5
        y, sums = gated_linear(scaled, k, v, heads(log_decay, self.num_heads), state["sums"] if state else None)
        return self.mixed(y, x_BTD), {"sums": sums}
