"""Parts of mixers with a matrix per head: head widths, projections with a convolution, and the gated output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archlab import Factory, Param, Recurrent, State, StateScope
from archlab.components._init import Init, InitLinear, linear
from archlab.ops.dtypes import at_least_float32

# Of GatedOutput, as `mixed`.
MIXED_PARAMS: dict[str, Param] = {
    "mixed.gate.weight": Param("hidden", tensor="column"),
    "mixed.out.weight": Param("hidden", tensor="row", branch=True),
}
# The output is normalized per head, so that no scale of queries and keys matters.
QKV_PARAMS: dict[str, Param] = {
    "query.weight": Param("hidden", tensor="column"),
    "key.weight": Param("hidden", tensor="column"),
    "value.weight": Param("hidden", tensor="column"),
    **MIXED_PARAMS,
}


def head_width(name: str, width: int, num_heads: int, counted_as: str = "num_heads") -> int:
    """Return the width of one head; raise ValueError where the number of heads does not divide the width."""
    if width % num_heads:
        raise ValueError(f"{name} {width} is not divisible by {counted_as} {num_heads}")
    return width // num_heads


def heads(x_BTD: Tensor, num_heads: int) -> Tensor:
    """Split the channels into heads, [B, T, H, D / H]."""
    return x_BTD.unflatten(-1, (num_heads, -1))


def l2_normalize(x_BTHK: Tensor) -> Tensor:
    """Return vectors of length one, in at least float32."""
    x = at_least_float32(x_BTHK)
    # eps inside the root, unlike F.normalize: the gradient of a zero vector is finite, as in the authors' kernels.
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class ConvProjection(Recurrent):
    """Projection, short convolution or moving average, and activation: silu(ema(W x)).

    x: [B, T, D] -> [B, T, num_outputs].
    """

    def __init__(self, dim: int, num_outputs: int, *, ema: Factory, init: Init) -> None:
        super().__init__()
        self.map = linear(dim, num_outputs, bias=False, init=init)
        self.ema = ema(num_outputs)

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Project, convolve, activate."""
        scope = StateScope(state)
        return F.silu(scope("ema", self.ema, self.map(x_BTD))), scope.state


class GatedOutput(nn.Module):
    """Output projection of the normalized heads with an optional gate: out(norm(y) * silu(gate(x))).

    y: [B, T, H, V] and x: [B, T, D] -> [B, T, D].  The norm applies to each head, or to all channels if `joined`.
    """

    gate: InitLinear | None

    def __init__(self, dim: int, value_dim: int, *, norm: nn.Module, joined: bool, gated: bool, init: Init) -> None:
        super().__init__()
        self.norm, self.joined = norm, joined
        self.gate = linear(dim, value_dim, bias=False, init=init) if gated else None
        self.out = linear(value_dim, dim, bias=False, init=init)

    def forward(self, y_BTHV: Tensor, x_BTD: Tensor) -> Tensor:
        """Normalize, gate, project."""
        y = self.norm(y_BTHV.flatten(-2)) if self.joined else self.norm(y_BTHV).flatten(-2)
        return self.out(y if self.gate is None else y * F.silu(self.gate(x_BTD)))
