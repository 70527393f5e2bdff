from __future__ import annotations

from archlab import Width, register
from archlab.components._init import Init

from ._channel_mix import GATED_PARAMS, SEARCH, ChannelMix


@register("ffn", "rwkv6", search=SEARCH, params=GATED_PARAMS)
class RWKV6ChannelMix(ChannelMix):
    """The channel mix of RWKV-6, sigmoid(receptance x) * out(relu(key x)²) (arXiv:2404.05892).

    x: [B, T, D] -> [B, T, D].  State: last [B, D].  Each x is interpolated with the previous one by a mix, the
    share of the previous token.
    Deviations: the mixes are initialized in all layers as in the middle layer of the authors' code, and the matrices
    by `init`.

    Args:
        hidden_dim: Number of hidden features; null for 3.5 D, rounded down to a multiple of 32.
        init: Distribution of the projections' weights.
    """

    def __init__(self, dim: int, *, hidden_dim: Width | None = None, init: Init = "he") -> None:
        super().__init__(dim, hidden_dim=hidden_dim or max(32, 7 * dim // 64 * 32), gated=True, init=init)
