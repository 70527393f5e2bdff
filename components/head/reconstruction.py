from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Param, Positive, register
from archlab.components._init import Init, TokenInit, init_tokens_, linear
from archlab.ops.dtypes import at_least_float32
from archlab.ops.rotary import rotary_angles


@register(
    "head",
    "reconstruction",
    params={
        "norms.*": Param("vector"),
        "layers.*.weight": Param("hidden"),
        "layers.*.bias": Param("vector"),
        "weight": Param("output", tensor="vocab"),
        "bias": Param("vector", tensor="vocab"),
    },
)
class ReconstructionHead(nn.Module):
    """Logits of the token at every position from the last position alone (MAD, arXiv:2403.17844, section 3.1).

    x: [B, T, D] -> [B, T, V] in at least float32: an MLP of two layers reads x_T plus the sines and cosines of a
    position t.  A sample is one call.
    Raises ValueError where D is odd, or where the model has no vocab_size.

    Args:
        base: Base of the geometric series of frequencies of the sines and cosines.
        init: Distribution of the MLP's weights.
        token_init: Distribution of the output weight: N(0, 1/D) `truncated` at three deviations, or `normal`,
            N(0, 0.02²).
    """

    per_sample = False
    causal = False  # every output depends on the last input
    matrix = None  # the logits have a bias: their loss is not computed in chunks

    def __init__(
        self,
        dim: int,
        vocab_size: int | None,
        embedding: nn.Module,
        *,
        base: Positive = 10000.0,
        init: Init = "he",
        token_init: TokenInit = "truncated",
    ) -> None:
        super().__init__()
        if vocab_size is None:
            raise ValueError("tokens need a vocab_size, the number of different tokens")
        if dim % 2:
            raise ValueError(f"dim {dim} is odd: sinusoidal positions fill pairs of features")
        self.num_outputs, self.base, self.token_init = vocab_size, base, token_init
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.layers = nn.ModuleList(linear(dim, dim, bias=True, init=init) for _ in range(2))
        self.weight = nn.Parameter(torch.empty(vocab_size, dim))
        self.bias = nn.Parameter(torch.empty(vocab_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the output weight and zero its bias."""
        init_tokens_(self.weight, self.token_init)
        nn.init.zeros_(self.bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Decode the token at each position from the last position."""
        B, T, D = x_BTD.shape
        angle = rotary_angles(torch.arange(T, device=x_BTD.device).expand(B, T), D // 2, self.base)
        x_BTD = x_BTD[:, -1:] + torch.cat((angle.sin(), angle.cos()), -1).to(x_BTD.dtype)
        for norm, layer in zip(self.norms, self.layers, strict=False):  # the third norm precedes the output weight
            x_BTD = F.gelu(layer(norm(x_BTD)))
        return at_least_float32(F.linear(self.norms[-1](x_BTD), self.weight, self.bias))
