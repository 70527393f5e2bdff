"""The channel mix of RWKV, which its versions specialize."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Domain, Param, Recurrent, State, StateScope, choice
from archlab.components._init import Init, linear
from archlab.components._token_shift import TokenShift, channel_fraction

SEARCH: dict[str, Domain] = {"hidden_dim": choice(128, 256, 512, 1024)}
PARAMS: dict[str, Param] = {
    "key_mix": Param("vector"),
    "key.weight": Param("hidden", tensor="column"),
    "out.weight": Param("hidden", tensor="row", branch=True),
}
GATED_PARAMS: dict[str, Param] = {
    **PARAMS,
    "receptance_mix": Param("vector"),
    "receptance.weight": Param("hidden", tensor="row"),
}


class ChannelMix(Recurrent):
    """out(relu(key x)²), gated by sigmoid(receptance x) if `gated`, of each x interpolated with the previous one.

    x: [B, T, D] -> [B, T, D].  State: last [B, D].
    """

    def __init__(self, dim: int, *, hidden_dim: int, gated: bool, init: Init) -> None:
        super().__init__()
        self.shift = TokenShift(dim)
        self.key_mix = nn.Parameter(torch.empty(dim))
        self.key = linear(dim, hidden_dim, bias=False, init=init)
        self.out = linear(hidden_dim, dim, bias=False, init=init)
        self.receptance_mix = nn.Parameter(torch.empty(dim)) if gated else None
        self.receptance = linear(dim, dim, bias=False, init=init) if gated else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Spread the channels from the previous to the current token."""
        for mix in (self.key_mix, self.receptance_mix):
            if mix is not None:
                mix.copy_(self.past_share(1 - channel_fraction(mix).sqrt()))

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Interpolate with the previous token, project up, square the positive part, project down."""
        scope = StateScope(state)
        diff_BTD = scope("shift", self.shift, x_BTD) - x_BTD
        y_BTD = self.out(F.relu(self.key(x_BTD + diff_BTD * self.past_share(self.key_mix))).square())
        if self.receptance is not None and self.receptance_mix is not None:
            mixed = x_BTD + diff_BTD * self.past_share(self.receptance_mix)
            y_BTD = torch.sigmoid(self.receptance(mixed)) * y_BTD
        return y_BTD, scope.state

    def past_share(self, mix_D: Tensor) -> Tensor:
        """Return the share of the previous token in each channel."""
        return mix_D
