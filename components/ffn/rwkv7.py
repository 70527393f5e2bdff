from __future__ import annotations

import torch

from archlab import Width, register
from archlab.components._init import Init
from archlab.components._token_shift import channel_fraction

from ._channel_mix import PARAMS, SEARCH, ChannelMix


@register("ffn", "rwkv7", search=SEARCH, params=PARAMS)
class RWKV7ChannelMix(ChannelMix):
    """The channel mix of RWKV-7, out(relu(key x)²) without a gate (arXiv:2503.14456).

    x: [B, T, D] -> [B, T, D].  State: last [B, D].  Each x is interpolated with the previous one by a mix, the
    share of the previous token.
    Deviations: the mixes are initialized in all layers as in the middle layer of the authors' code, and the matrices
    by `init`.

    Args:
        hidden_dim: Number of hidden features; null for 4 D.
        init: Distribution of the projections' weights.
    """

    def __init__(self, dim: int, *, hidden_dim: Width | None = None, init: Init = "he") -> None:
        super().__init__(dim, hidden_dim=hidden_dim or 4 * dim, gated=False, init=init)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Spread the channels from the previous to the current token, most of them close to the current one."""
        self.key_mix.copy_(1 - channel_fraction(self.key_mix) ** 0.0625)
