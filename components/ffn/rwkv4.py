from __future__ import annotations

from torch import Tensor

from archlab import Count, register
from archlab.components._init import Init

from ._channel_mix import SEARCH, ChannelMix


@register("ffn", "rwkv4", search=SEARCH)
class RWKV4ChannelMix(ChannelMix):
    """The channel mix of RWKV-4, sigmoid(receptance x) * out(relu(key x)²), eq. 14, 15 and 18 (arXiv:2305.13048).

    x: [B, T, D] -> [B, T, D].  State: last [B, D].  4 D wide unless said otherwise; each x is mixed with the one
    before it, the mix being the share of the present.
    Deviations: the mixes begin as in the middle layer of the authors' code in all layers, the matrices as `init` says.
    """

    def __init__(self, dim: int, *, hidden_dim: Count | None = None, init: Init = "he") -> None:
        super().__init__(dim, hidden_dim=hidden_dim or 4 * dim, gated=True, init=init)

    def past_share(self, mix_D: Tensor) -> Tensor:
        """Return what the present leaves."""
        return 1 - mix_D
