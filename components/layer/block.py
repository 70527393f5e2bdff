from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from archlab import Factory, Fraction, Recurrent, State, StateScope, register, slot


@register("layer", "block")
class Block(Recurrent):
    """A sequence mixer and a channel mixer, each behind a norm, joined by a residual scheme.

    x: [B, T, D] -> [B, T, D].
    """

    def __init__(
        self,
        dim: int,
        layer_index: int,
        *,
        residual: Factory = slot("residual", "pre_norm"),
        norm: Factory = slot("norm", "rms"),
        mixer: Factory = slot("mixer"),
        ffn_norm: Factory = slot("norm", "rms"),
        ffn: Factory = slot("ffn", "swiglu"),
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.residual = residual(dim, layer_index)
        self.norm, self.mixer = norm(dim), mixer(dim)
        self.ffn_norm, self.ffn = ffn_norm(dim), ffn(dim)
        self.dropout = nn.Dropout(dropout)
        if self.residual.needs_ffn and getattr(self.ffn, "adds_nothing", False):
            raise ValueError("this residual needs an ffn: without one the mixer would not reach the output")

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run both branches as the residual scheme says."""
        stream = StateScope(state)
        mixer = BlockBranch(stream, self, "norm", "mixer")
        ffn = BlockBranch(stream, self, "ffn_norm", "ffn")
        return self.residual(x_BTD, mixer, ffn), stream.state


class BlockBranch:
    """One branch of a block as a residual scheme sees it: a norm, a body, and the one after the other."""

    def __init__(self, stream: StateScope, block: Any, norm: str, body: str) -> None:
        self.stream, self.block, self.names = stream, block, (norm, body)

    def norm(self, x_BTD: Tensor) -> Tensor:
        """Normalise."""
        return self._part(self.names[0], x_BTD)

    def body(self, x_BTD: Tensor) -> Tensor:
        """Mix what was normalised."""
        return self.block.dropout(self._part(self.names[1], x_BTD))

    def __call__(self, x_BTD: Tensor) -> Tensor:
        """Normalise and mix."""
        return self.body(self.norm(x_BTD))

    def _part(self, name: str, x_BTD: Tensor) -> Tensor:
        return self.stream(name, getattr(self.block, name), x_BTD)
