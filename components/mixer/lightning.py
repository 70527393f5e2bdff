from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Heads, Param, Positive, Recurrent, State, TensorPlan, choice, interval, register
from archlab.components._init import Init, linear
from archlab.components.norm.rms import RMSNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.gated_linear import gated_linear

from ._heads import heads


@register(
    "mixer",
    "lightning",
    search={"num_heads": choice(1, 2, 4, 8), "decay_rate": interval(0.1, 2.0, log=True)},
    params={
        "query.weight": Param("hidden", tensor="column"),
        "key.weight": Param("hidden", tensor="column"),
        "value.weight": Param("hidden", tensor="column"),
        "gate.weight": Param("hidden", tensor="column"),
        "out.weight": Param("hidden", tensor="row", branch=True),
    },
    # The norm reads all heads together: without a plan of its own it keeps all of the mixer whole.
    tensor=TensorPlan(counts=("num_heads",), parts=("norm",)),
)
class LightningAttention(Recurrent):
    """Linear attention with a fixed decay per head, exp(-2^(-8 h / H)) for head h from 1 to H (arXiv:2401.04658).

    x: [B, T, D] -> [B, T, D].  State: sums [B, H, K, K] in at least float32.  Queries, keys and values are silu(W x);
    the output is out(sigmoid(gate x) * norm(y)), as in MiniMax-01 (arXiv:2501.08313).
    Raises ValueError where num_heads does not divide D and head_dim is null.

    Args:
        num_heads: Number of heads.
        head_dim: Width of a head; null for D / num_heads.
        decay_rate: Factor of the logs of all decays; published models have 1 in the first layer and nearly 0 in the
            last.
        eps: Constant added to the mean square in the output norm.
        zero_centered: Whether the output norm's scale is 1 + weight instead of the weight.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: Heads = 4,
        head_dim: Count | None = None,
        decay_rate: Positive = 1.0,
        eps: Positive = 1e-5,
        zero_centered: bool = True,
        init: Init = "he",
    ) -> None:
        super().__init__()
        if head_dim is None and dim % num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {num_heads}")
        self.num_heads, self.head_dim, self.decay_rate = num_heads, head_dim or dim // num_heads, decay_rate
        width = num_heads * self.head_dim
        self.query = linear(dim, width, bias=False, init=init)
        self.key = linear(dim, width, bias=False, init=init)
        self.value = linear(dim, width, bias=False, init=init)
        self.gate = linear(dim, width, bias=False, init=init)
        self.norm: nn.Module = RMSNorm(width, eps=eps, zero_centered=zero_centered)
        self.out = linear(width, dim, bias=False, init=init)

    def init_state(self, batch_size: int) -> State:
        """Return empty sums."""
        size = (batch_size, self.num_heads, self.head_dim, self.head_dim)
        return {"sums": at_least_float32(self.query.weight).new_zeros(size)}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read the decayed sums of keys and values with each query, normalize, gate and project."""
        q, k, v = (heads(F.silu(part(x_BTD)), self.num_heads) for part in (self.query, self.key, self.value))
        log_decay_BTH1 = self._log_decay(at_least_float32(q)).expand(*q.shape[:3], 1)
        y_BTHV, sums = gated_linear(q, k, v, log_decay_BTH1, state["sums"] if state else None)
        return self.out(torch.sigmoid(self.gate(x_BTD)) * self.norm(y_BTHV.flatten(-2))), {"sums": sums}

    def _log_decay(self, like: Tensor) -> Tensor:
        """Return the log of each head's decay [H, 1]."""
        head = 1 + torch.arange(self.num_heads, dtype=like.dtype, device=like.device)
        return -self.decay_rate * torch.exp2(-8 * head / self.num_heads)[:, None]
