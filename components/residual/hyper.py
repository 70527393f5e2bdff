"""Letters in suffixes: B batch, T time, S streams, D features, M the branch's input and the streams, S + 1 mixtures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from archlab import Count, Param, Positive, choice, register
from archlab.ops.dtypes import at_least_float32, without_autocast

from ._base import Branch, Residual


@register(
    "residual",
    "hyper",
    search={"num_streams": choice(2, 4), "dynamic": choice(False, True)},
    params={
        "mix": Param("vector"),
        "gain": Param("vector", branch=True),
        "norms.*": Param("vector"),
        "to_mix": Param("output", fan_in=1, fan_out=2),
        "to_gain": Param("output", fan_in=1, fan_out=2),
        "mix_scale": Param("vector"),
        "gain_scale": Param("vector", branch=True),
    },
)
class HyperConnections(Residual):
    """Several residual streams, which each branch reads, mixes and adds to by learned weights (arXiv:2409.19606).

    x: [B, T, S, D] -> [B, T, S, D].  The backbone begins all streams with its embedding and adds them up in the end.
    A branch reads h = sum_r a_r x_r; then x_s = sum_r m_rs x_r + g_s branch(h).  Dynamic weights a, m and g have a part
    scale * tanh(norm(x) W), which depends on the streams.  The first axis of every parameter is that of the branches.

    Args:
        num_streams: Number of streams.
        dynamic: Whether the weights depend on the streams.
        start: Initial value of the scales of the weights' dynamic parts.
    """

    to_mix: nn.Parameter  # these four are there where the weights are dynamic
    to_gain: nn.Parameter
    mix_scale: nn.Parameter
    gain_scale: nn.Parameter

    def __init__(
        self, dim: int, layer_index: int, *, num_streams: Count = 4, dynamic: bool = True, start: Positive = 0.01
    ) -> None:
        super().__init__(dim, layer_index)
        self.num_streams, self.start = num_streams, start
        # The branches read one stream after the other, which is how layers differ before training.
        self.first = tuple((2 * layer_index + branch) % num_streams for branch in range(2))
        self.mix = nn.Parameter(torch.empty(2, num_streams, num_streams + 1))
        self.gain = nn.Parameter(torch.empty(2, num_streams))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 if dynamic else 0))
        shapes = {"to_mix": (2, dim, num_streams + 1), "to_gain": (2, dim, 1), "mix_scale": (2,), "gain_scale": (2,)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)) if dynamic else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Begin as a pre-norm residual on each stream, whose branch reads one of them."""
        for mix_SM, first in zip(self.mix, self.first, strict=True):
            mix_SM.zero_()
            mix_SM[first, 0] = 1
            mix_SM[:, 1:].fill_diagonal_(1)
        self.gain.fill_(1)
        if self.norms:
            for weight in (self.to_mix, self.to_gain):
                weight.zero_()
            for scale in (self.mix_scale, self.gain_scale):
                scale.fill_(self.start)

    def added(self, mixer: nn.Module, ffn: nn.Module) -> tuple[nn.Module, ...]:
        """Return itself: its gains scale both branches."""
        return (self,)

    def forward(self, x: Tensor, mixer: Branch, ffn: Branch) -> Tensor:
        """Run both branches on mixtures of the streams."""
        for index, branch in enumerate((mixer, ffn)):
            mix, gain = self._weights(x, index)
            mixed_BTMD = mix.mT.to(x.dtype) @ x
            y_BTD = branch(mixed_BTMD[..., 0, :])
            x = mixed_BTMD[..., 1:, :] + gain.to(y_BTD.dtype)[..., None] * y_BTD[..., None, :]
        return x

    def _weights(self, x_BTSD: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Return a branch's mixtures of the streams, [B, T, S, M] or [S, M], and its gains, [B, T, S] or [S]."""
        if not self.norms:
            return self.mix[index], self.gain[index]
        with without_autocast(x_BTSD):
            wide_BTSD = self.norms[index](at_least_float32(x_BTSD))
            mix_BTSM = self.mix_scale[index] * (wide_BTSD @ self.to_mix[index]).tanh()
            gain_BTS = self.gain_scale[index] * (wide_BTSD @ self.to_gain[index]).tanh()[..., 0]
            return self.mix[index] + mix_BTSM, self.gain[index] + gain_BTS
