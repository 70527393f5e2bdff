"""B batch, T samples, C channels, F frames, D features."""

from __future__ import annotations

from torch import Tensor, nn

from archlab import Count, Fraction, Param, choice, interval, register
from archlab.components._init import Init, linear


@register(
    "embedding",
    "frames",
    search={"frame_size": choice(1, 4, 16), "dropout": interval(0.0, 0.3)},
    params={"projection.weight": Param("input"), "projection.bias": Param("vector")},
)
class FrameEmbedding(nn.Module):
    """A linear projection of every frame of `frame_size` samples of a waveform.

    wave: [B, T] float, or [B, T, C] with several channels -> [B, F, D].
    Raises ValueError for waveforms that are no whole number of frames.

    Args:
        frame_size: Number of samples of a frame.
        num_channels: Number of channels of the waveform.
        dropout: Probability of zeroing an embedded feature in training.
        init: Distribution of the projection's weights.
    """

    def __init__(
        self,
        vocab_size: int | None,
        dim: int,
        *,
        frame_size: Count = 1,
        num_channels: Count = 1,
        dropout: Fraction = 0.0,
        init: Init = "he",
    ) -> None:
        super().__init__()
        self.frame_size = frame_size
        self.projection = linear(frame_size * num_channels, dim, bias=True, init=init)
        self.dropout = nn.Dropout(dropout)

    def inputs_within(self, num_positions: int) -> int:
        """Return the maximum number of samples of a waveform for a number of positions."""
        return num_positions * self.frame_size

    def forward(self, wave_BT: Tensor) -> Tensor:
        """Split the waveforms into frames and project them."""
        if wave_BT.shape[1] % self.frame_size:
            raise ValueError(f"waves of {wave_BT.shape[1]} samples are not whole frames of {self.frame_size}")
        return self.dropout(self.projection(wave_BT.unflatten(1, (-1, self.frame_size)).flatten(2)))
