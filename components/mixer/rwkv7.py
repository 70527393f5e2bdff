from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Positive, Recurrent, State, StateScope, choice, register
from archlab.components._init import Init, linear
from archlab.components._token_shift import TokenShift, channel_fraction
from archlab.components.norm.group import GroupNorm
from archlab.ops.dtypes import at_least_float32
from archlab.ops.generalized_delta import generalized_delta

from ._heads import heads
from ._low_rank import LowRank

FASTEST = -math.exp(-0.5)


@register("mixer", "rwkv7", search={"head_dim": choice(16, 32, 64)})
class RWKV7TimeMix(Recurrent):
    """The time mix of RWKV-7 (Goose), a matrix per head that is corrected key by key (arXiv:2503.14456).

    x: [B, T, D] -> [B, T, D].  State: last [B, D], and sums [B, D / head_dim, head_dim, head_dim] in at least float32.
    The decay, the rate of correction and the gate are functions of the token, by matrices of rank decay_rank and
    rate_rank (1.8 sqrt(D) unless said otherwise) and gate_rank (0.6 D^0.8), all rounded to multiples of 32 as in the
    authors' code.  Raises ValueError where head_dim does not divide D.
    Deviations: the values of the first layer are not mixed into those of later ones, which a layer does not see; what
    depends on the layer begins as in the middle one of the authors' code in all, the matrices as `init` says.
    """

    def __init__(
        self,
        dim: int,
        *,
        head_dim: Count = 64,
        decay_rank: Count | None = None,
        rate_rank: Count | None = None,
        gate_rank: Count | None = None,
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
        self.removal = nn.Parameter(torch.empty(dim))
        self.replacement = nn.Parameter(torch.empty(dim))
        self.bonus = nn.Parameter(torch.empty(self.num_heads, head_dim))
        self.norm = GroupNorm(dim, num_groups=self.num_heads, eps=eps)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin with channels that see ever less of the past, and ever less of what is long past."""
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
        """Return empty sums."""
        sums = at_least_float32(self.bonus).new_zeros(batch_size, *self.bonus.shape, self.head_dim)
        return super().init_state(batch_size) | {"sums": sums}

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read with each receptance what keys and values wrote, and what later keys corrected."""
        stream = StateScope(state)
        step_BTD = stream("shift", self.shift, x_BTD) - x_BTD
        for_r, for_k, for_v, for_g, for_w, for_a = (x_BTD + step_BTD * mix for mix in self.mixes)
        r, k, v = (heads(x, self.num_heads) for x in (self.receptance(for_r), self.key(for_k), self.value(for_v)))
        rate = heads(torch.sigmoid(self.rate(for_a)), self.num_heads)
        removed = F.normalize(at_least_float32(k * heads(self.removal, self.num_heads)), dim=-1)
        k = k * (1 + (rate - 1) * heads(self.replacement, self.num_heads))
        log_decay = heads(FASTEST * torch.sigmoid(at_least_float32(self.decay(for_w))), self.num_heads)
        sums = state["sums"] if state else None
        y_BTHV, sums = generalized_delta(r, k, v, -removed, removed * rate, log_decay, sums)
        y_BTD = self.norm(y_BTHV.flatten(-2)) + ((r * k * self.bonus).sum(-1, keepdim=True) * v).flatten(-2)
        return self.out(y_BTD * self.gate(for_g)), stream.state | {"sums": sums}


def _rank(width: float) -> int:
    return max(32, round(width / 32) * 32)
