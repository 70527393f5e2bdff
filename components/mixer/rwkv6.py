from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Param, Positive, Recurrent, State, StateScope, TensorPlan, choice, register
from archlab.components._init import Init, linear
from archlab.components._token_shift import TokenShift, channel_fraction
from archlab.components.norm.group import GroupNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.gated_linear import gated_linear

from ._heads import heads
from ._low_rank import LowRank


@register(
    "mixer",
    "rwkv6",
    search={"head_dim": choice(16, 32, 64)},
    params={
        "mix": Param("vector"),
        "mixes.*.down.weight": Param("output"),
        "mixes.*.up.weight": Param("input"),
        "mixes.*.up.bias": Param("vector"),
        "decay.down.weight": Param("output"),
        "decay.up.weight": Param("input", tensor="column"),
        "decay.up.bias": Param("vector", tensor="column"),
        "bonus": Param("vector", tensor="heads"),
        "receptance.weight": Param("hidden", tensor="column"),
        "key.weight": Param("hidden", tensor="column"),
        "value.weight": Param("hidden", tensor="column"),
        "gate.weight": Param("hidden", tensor="column"),
        "out.weight": Param("hidden", tensor="row", branch=True),
    },
    tensor=TensorPlan(counts=("num_heads",), parts=("norm",)),
)
class RWKV6TimeMix(Recurrent):
    """The time mix of RWKV-6 (Finch), a matrix per head with a data-dependent decay (arXiv:2404.05892).

    x: [B, T, D] -> [B, T, D].  State: last [B, D], and sums [B, D / head_dim, head_dim, head_dim] in at least float32.
    The token-shift mixes and the decay are low-rank functions of the token.
    Raises ValueError where head_dim does not divide D.
    Deviations: decays, bonuses and mixes are initialized in all layers as in the middle layer of the authors' code,
    and the matrices by `init`.

    Args:
        head_dim: Width of a head; there are D / head_dim heads.
        mix_rank: Rank of the functions that compute the token-shift mixes.
        decay_rank: Rank of the function that computes the decay.
        eps: Constant added to the variance in the output norm.
        init: Distribution of the projections' weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        head_dim: Count = 64,
        mix_rank: Count = 32,
        decay_rank: Count = 64,
        eps: Positive = 64e-5,
        init: Init = "he",
    ) -> None:
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"dim {dim} is not divisible by head_dim {head_dim}")
        self.num_heads, self.head_dim = dim // head_dim, head_dim
        self.shift = TokenShift(dim)
        self.mix = nn.Parameter(torch.empty(dim))
        self.mixes = nn.ModuleList(LowRank(dim, mix_rank, dim, activation=torch.tanh) for _ in range(5))
        self.decay = LowRank(dim, decay_rank, dim, activation=torch.tanh)
        self.bonus = nn.Parameter(torch.empty(self.num_heads, head_dim))
        self.receptance = linear(dim, dim, bias=False, init=init)
        self.key = linear(dim, dim, bias=False, init=init)
        self.value = linear(dim, dim, bias=False, init=init)
        self.gate = linear(dim, dim, bias=False, init=init)
        self.out = linear(dim, dim, bias=False, init=init)
        self.norm = GroupNorm(dim, num_groups=self.num_heads, eps=eps)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Spread the channels from the previous to the current token, and from slow to fast decay."""
        present = channel_fraction(self.mix)
        self.mix.copy_(1 - present.sqrt())
        shares = (present**0.25, present.sqrt(), present.sqrt() + 0.15, present**0.25, present.sqrt())
        for part, share in zip(self.mixes, shares, strict=True):
            part.get_parameter("up.bias").copy_(1 - share)
        self.decay.up.bias.copy_(5 * present**1.35 - 6)
        zigzag = torch.arange(1, len(present) + 1, device=present.device) % 3 - 1
        self.bonus.copy_((0.5 * (1 - present) + 0.1 * zigzag).view_as(self.bonus))

    def init_state(self, batch_size: int) -> State:
        """Return zero sums."""
        sums = at_least_float32(self.bonus).new_zeros(batch_size, *self.bonus.shape, self.head_dim)
        return super().init_state(batch_size) | {"sums": sums}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read the decayed sums of keys and values with each receptance."""
        scope = StateScope(state)
        diff_BTD = scope("shift", self.shift, x_BTD) - x_BTD
        mixed = x_BTD + diff_BTD * self.mix
        for_r, for_k, for_v, for_g, for_w = (x_BTD + diff_BTD * part(mixed) for part in self.mixes)
        r, k, v = (heads(x, self.num_heads) for x in (self.receptance(for_r), self.key(for_k), self.value(for_v)))
        log_decay = heads(-at_least_float32(self.decay(for_w)).exp(), self.num_heads)
        y_BTHV, sums = gated_linear(r, k, v, log_decay, state["sums"] if state else None, bonus_HK=self.bonus)
        return self.out(self.norm(y_BTHV.flatten(-2)) * F.silu(self.gate(for_g))), scope.state | {"sums": sums}
