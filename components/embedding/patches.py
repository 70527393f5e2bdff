"""B batch, C channels, H height, W width, N patches, P side of a patch, D features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Count, Fraction, Index, Param, choice, interval, register


@register(
    "embedding",
    "patches",
    search={"patch_size": choice(2, 4, 8, 16), "dropout": interval(0.0, 0.3)},
    params={"weight": Param("input"), "bias": Param("vector"), "class_tokens.*": Param("input")},
)
class PatchEmbedding(nn.Module):
    """A linear projection of every patch of an image, in raster order, after learned class tokens (arXiv:2010.11929).

    images: [B, C, H, W] float -> [B, class_tokens + N, D].
    Raises ValueError for images that are no whole number of patches.

    Args:
        patch_size: Side of a patch in pixels.
        num_channels: Number of channels of the images.
        class_tokens: Number of class tokens; a second one is DeiT's distillation token (arXiv:2012.12877).
        dropout: Probability of zeroing an embedded feature in training.
    """

    def __init__(
        self,
        vocab_size: int | None,
        dim: int,
        *,
        patch_size: Count = 16,
        num_channels: Count = 3,
        class_tokens: Index = 1,
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.weight = nn.Parameter(torch.empty(dim, num_channels, patch_size, patch_size))
        self.bias = nn.Parameter(torch.empty(dim))
        self.class_tokens = nn.ParameterList(torch.empty(dim) for _ in range(class_tokens))
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights from N(0, 1/(3 C P²)) and class tokens from N(0, 0.02²), and zero the bias."""
        nn.init.normal_(self.weight, std=(3 * self.weight[0].numel()) ** -0.5)
        nn.init.zeros_(self.bias)
        for token_D in self.class_tokens:
            nn.init.normal_(token_D, std=0.02)

    def inputs_within(self, num_positions: int) -> int:
        """Return the maximum number of pixels of an image for a number of positions."""
        return max(0, num_positions - len(self.class_tokens)) * self.patch_size**2

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Split the images into patches and project them."""
        height, width = images_BCHW.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"images of {height} x {width} pixels are not whole patches of {self.patch_size}")
        x_BND = F.conv2d(images_BCHW, self.weight, self.bias, stride=self.patch_size).flatten(2).mT
        tokens = [token_D.to(x_BND.dtype).expand(x_BND.shape[0], 1, -1) for token_D in self.class_tokens]
        return self.dropout(torch.cat((*tokens, x_BND), dim=1))
