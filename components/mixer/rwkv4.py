from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from archlab import Param, Recurrent, State, StateScope, Width, choice, register
from archlab.components._init import Init, linear
from archlab.components._token_shift import TokenShift, channel_fraction
from archlab.ops.dtypes import at_least_float32
from archlab.ops.wkv import WKVState, init_wkv_state, wkv


@register(
    "mixer",
    "rwkv4",
    search={"hidden_dim": choice(128, 256, 512)},
    params={
        "*_mix": Param("vector"),
        "decay": Param("vector", tensor="column"),
        "bonus": Param("vector", tensor="column"),
        "receptance.weight": Param("hidden", tensor="column"),
        "key.weight": Param("hidden", tensor="column"),
        "value.weight": Param("hidden", tensor="column"),
        "out.weight": Param("hidden", tensor="row", branch=True),
    },
)
class RWKV4TimeMix(Recurrent):
    """The time mix of RWKV-4, gated weighted averages of values, eq. 11 to 13, 16 and 17 (arXiv:2305.13048).

    x: [B, T, D] -> [B, T, D].  State: last [B, D], and num, den and peak [B, hidden_dim] in at least float32.
    Each x is interpolated with the previous one by a mix, the share of the current token; the decay is stored as
    log w.
    Deviations: decays and mixes are initialized in all layers as in the middle layer of the authors' code, and the
    matrices by `init` (there, receptance, key and out are zero).

    Args:
        hidden_dim: Number of channels of receptance, key and value; null for D.
        init: Distribution of the projections' weights.
    """

    def __init__(self, dim: int, *, hidden_dim: Width | None = None, init: Init = "he") -> None:
        super().__init__()
        hidden_dim = hidden_dim or dim
        self.shift = TokenShift(dim)
        self.receptance_mix = nn.Parameter(torch.empty(dim))
        self.key_mix = nn.Parameter(torch.empty(dim))
        self.value_mix = nn.Parameter(torch.empty(dim))
        self.decay = nn.Parameter(torch.empty(hidden_dim))
        self.bonus = nn.Parameter(torch.empty(hidden_dim))
        self.receptance = linear(dim, hidden_dim, bias=False, init=init)
        self.key = linear(dim, hidden_dim, bias=False, init=init)
        self.value = linear(dim, hidden_dim, bias=False, init=init)
        self.out = linear(hidden_dim, dim, bias=False, init=init)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Spread the channels from the previous to the current token, and from slow to fast decay."""
        self.receptance_mix.copy_(channel_fraction(self.receptance_mix) ** 0.25)
        self.key_mix.copy_(channel_fraction(self.key_mix).sqrt())
        self.value_mix.copy_(channel_fraction(self.value_mix).sqrt() + 0.15)
        self.decay.copy_(8 * channel_fraction(self.decay) ** 1.35 - 5)
        zigzag = torch.arange(1, len(self.bonus) + 1, device=self.bonus.device) % 3 - 1
        self.bonus.copy_(0.5 * zigzag + math.log(0.3))

    def init_state(self, batch_size: int) -> State:
        """Return zero sums, with the running maximum of the exponents at minus infinity."""
        sums = init_wkv_state(self.decay.new_zeros(batch_size, len(self.decay)))
        return super().init_state(batch_size) | sums._asdict()

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Average earlier values with weights from their keys and ages."""
        scope = StateScope(state)
        diff_BTD = scope("shift", self.shift, x_BTD) - x_BTD
        r, k, v = (
            part(x_BTD + diff_BTD * (1 - mix))
            for part, mix in (
                (self.receptance, self.receptance_mix),
                (self.key, self.key_mix),
                (self.value, self.value_mix),
            )
        )
        sums = WKVState(*(state[name] for name in WKVState._fields)) if state else None
        y_BTD, sums = wkv(k, v, -at_least_float32(self.decay).exp(), self.bonus, sums)
        return self.out(torch.sigmoid(r) * y_BTD), scope.state | sums._asdict()
