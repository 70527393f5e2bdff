from __future__ import annotations

from torch import Tensor

from archlab import Width, register
from archlab.components._init import Init

from ._channel_mix import GATED_PARAMS, SEARCH, ChannelMix


@register("ffn", "rwkv4", search=SEARCH, params=GATED_PARAMS)
class RWKV4ChannelMix(ChannelMix):
    """The channel mix of RWKV-4, sigmoid(receptance x) * out(relu(key x)²), eq. 14, 15 and 18 (arXiv:2305.13048).

    x: [B, T, D] -> [B, T, D].  State: last [B, D].  Each x is interpolated with the previous one by a mix, the
    share of the current token.
    Deviations: the mixes are initialized in all layers as in the middle layer of the authors' code, and the matrices
    by `init`.

    Args:
        hidden_dim: Number of hidden features; null for 4 D.
        init: Distribution of the projections' weights.
    """

    def __init__(self, dim: int, *, hidden_dim: Width | None = None, init: Init = "he") -> None:
        super().__init__(dim, hidden_dim=hidden_dim or 4 * dim, gated=True, init=init)

    def past_share(self, mix_D: Tensor) -> Tensor:
        """Return 1 - mix, since RWKV-4 stores the share of the current token."""
        return 1 - mix_D
