from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Param, Positive, Recurrent, State, StateScope, TensorPlan, choice, register
from archlab.components._init import Init, linear
from archlab.components._token_shift import TokenShift, channel_fraction
from archlab.components.norm.group import GroupNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.generalized_delta import generalized_delta

from ._heads import heads
from ._low_rank import LowRank
from ._value_residual import GatedValues, given_values, mix_values, with_shared_values

MIN_LOG_DECAY = -math.exp(-0.5)  # as in the paper: decays lie between exp(-exp(-0.5)) = 0.545 and 1


@register(
    "mixer",
    "rwkv7",
    search={"head_dim": choice(16, 32, 64), "value_residual": choice(False, True)},
    params={
        "mixes": Param("vector"),
        "receptance.weight": Param("hidden", tensor="column"),
        "key.weight": Param("hidden", tensor="column"),
        "value.weight": Param("hidden", tensor="column"),
        "out.weight": Param("hidden", tensor="row", branch=True),
        "*.down.weight": Param("hidden"),  # the ranks grow with the width, unless they are given
        "*.up.weight": Param("hidden", tensor="column"),
        "*.up.bias": Param("vector", tensor="column"),
        "removal": Param("vector", tensor="column"),
        "replacement": Param("vector", tensor="column"),
        # Multiplies r k^T over a head after the norm, which the sums themselves pass.
        "bonus": Param("vector", tensor="heads", scale={"head_dim": -1.0}),
    },
    tensor=TensorPlan(counts=("num_heads",), parts=("norm",)),
)
class RWKV7TimeMix(Recurrent):
    """The time mix of RWKV-7 (Goose), a matrix per head under a generalized delta rule (arXiv:2503.14456).

    x: [B, T, D] -> [B, T, D].  State: last [B, D], and sums [B, D / head_dim, head_dim, head_dim] in at least float32.
    The decay, the in-context learning rate and the gate are low-rank functions of the token.
    Raises ValueError where head_dim does not divide D.
    Deviations: the values of the first layer are mixed into those of later ones only under `value_residual`; parameters
    that depend on the layer are initialized in all layers as in the middle layer of the authors' code, and the matrices
    by `init`.

    Args:
        head_dim: Width of a head; there are D / head_dim heads.
        decay_rank: Rank of the function that computes the decay; null for 1.8 sqrt(D), rounded to a multiple of 32.
        rate_rank: Rank of the function that computes the in-context learning rate; null for 1.8 sqrt(D), rounded to a
            multiple of 32.
        gate_rank: Rank of the function that computes the gate; null for 0.6 D^0.8, rounded to a multiple of 32.
        value_residual: Whether the values of the first layer with a value residual are mixed into those of this one, by
            a gate per feature; the first itself mixes nothing.
        value_rank: Rank of the function that computes that gate; null for 1.3 sqrt(D), rounded to a multiple of 32.
        eps: Constant added to the variance in the output norm.
        init: Distribution of the projections' weights.
    """

    value_residual: GatedValues | None

    def __init__(
        self,
        dim: int,
        *,
        head_dim: Count = 64,
        decay_rank: Count | None = None,
        rate_rank: Count | None = None,
        gate_rank: Count | None = None,
        value_residual: bool = False,
        value_rank: Count | None = None,
        eps: Positive = 64e-5,
        init: Init = "he",
    ) -> None:
        super().__init__()
        if dim % head_dim:
            raise ValueError(f"dim {dim} is not divisible by head_dim {head_dim}")
        self.num_heads, self.head_dim = dim // head_dim, head_dim
        small, large = _rank(1.8 * dim**0.5), _rank(0.6 * dim**0.8)
        self.shift = TokenShift(dim)
        self.mixes = nn.Parameter(torch.empty(6, dim))
        self.receptance = linear(dim, dim, bias=False, init=init)
        self.key = linear(dim, dim, bias=False, init=init)
        self.value = linear(dim, dim, bias=False, init=init)
        self.out = linear(dim, dim, bias=False, init=init)
        self.decay = LowRank(dim, decay_rank or small, dim, activation=torch.tanh)
        self.rate = LowRank(dim, rate_rank or small, dim, activation=nn.Identity())
        self.gate = LowRank(dim, gate_rank or large, dim, activation=torch.sigmoid, bias=False)
        value_rank = value_rank or _rank(1.3 * dim**0.5)
        self.value_residual = GatedValues(dim, value_rank, dim) if value_residual else None
        self.removal = nn.Parameter(torch.empty(dim))
        self.replacement = nn.Parameter(torch.empty(dim))
        self.bonus = nn.Parameter(torch.empty(self.num_heads, head_dim))
        self.norm = GroupNorm(dim, num_groups=self.num_heads, eps=eps)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Spread the channels from the previous to the current token, and from slow to fast decay."""
        present, N = channel_fraction(self.removal), self.head_dim
        powers = torch.tensor((0.1, 0.35, 0.35, 0.1, 0.45, 0.45), device=present.device)
        self.mixes.copy_(1 - present ** powers[:, None])
        zigzag = 2 * (torch.arange(len(present), device=present.device) % N) / max(1, N - 1) - 1
        zigzag = zigzag * zigzag.abs()
        self.decay.up.bias.copy_(6 * present**1.81 - 5.5 + 2.5 * zigzag)
        self.rate.up.bias.copy_(0.4 * present - 0.39 + 0.3 * zigzag)
        self.removal.copy_(0.76 - 0.1 * present)
        nn.init.constant_(self.replacement, 1.02)
        nn.init.constant_(self.bonus, -0.04)

    def init_state(self, batch_size: int) -> State:
        """Return zero sums."""
        sums = at_least_float32(self.bonus).new_zeros(batch_size, *self.bonus.shape, self.head_dim)
        return super().init_state(batch_size) | {"sums": sums}

    def forward(
        self, x_BTD: Tensor, state: State | None = None, first_values_BTV: Tensor | None = None
    ) -> tuple[Tensor | tuple[Tensor, dict[str, Any]], State]:
        """Correct the sums by each key and value, then read them with the receptance."""
        scope = StateScope(state)
        diff_BTD = scope("shift", self.shift, x_BTD) - x_BTD
        for_r, for_k, for_v, for_g, for_w, for_a = (x_BTD + diff_BTD * mix for mix in self.mixes)
        v_BTD = mix_values(self.value_residual, self.value(for_v), first_values_BTV, for_v)
        r, k, v = (heads(x, self.num_heads) for x in (self.receptance(for_r), self.key(for_k), v_BTD))
        rate = heads(torch.sigmoid(self.rate(for_a)), self.num_heads)
        removed = F.normalize(at_least_float32(k * heads(self.removal, self.num_heads)), dim=-1)
        k = k * (1 + (rate - 1) * heads(self.replacement, self.num_heads))
        log_decay = heads(MIN_LOG_DECAY * torch.sigmoid(at_least_float32(self.decay(for_w))), self.num_heads)
        sums = state["sums"] if state else None
        y_BTHV, sums = generalized_delta(r, k, v, -removed, removed * rate, log_decay, sums)
        y_BTD = self.norm(y_BTHV.flatten(-2)) + ((r * k * self.bonus).sum(-1, keepdim=True) * v).flatten(-2)
        y_BTD = self.out(y_BTD * self.gate(for_g))
        return with_shared_values(y_BTD, given_values(self.value_residual, v_BTD)), scope.state | {"sums": sums}


def _rank(width: float) -> int:
    """Round to a positive multiple of 32, as in the authors' code."""
    return max(32, round(width / 32) * 32)
