from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from archlab import Factory, Fraction, Recurrent, State, StateScope, register, slot
from archlab.components.norm.none import NoNorm


@register("layer", "block")
class Block(Recurrent):
    """A sequence mixer and a feed-forward layer, each after a norm, combined by a residual scheme.

    x: [B, T, D] -> [B, T, D], or [B, T, S, D] -> [B, T, S, D] where the residual has S streams. Of several layers
    whose mixers have a `value_residual` the first returns its values [B, T, V] too, with which the others are called,
    and so do those whose keys and values other layers take.
    Raises ValueError for a residual that needs an ffn, together with ffn `none`.

    Args:
        residual: Scheme that combines the input and both branches.
        norm: Norm before the mixer, or after it where the residual is post-norm.
        mixer: Sequence mixer.
        ffn_norm: Norm before the feed-forward layer, or after it where the residual is post-norm.
        ffn: Feed-forward layer.
        output_norm: Norm after the mixer, before the residual adds its output.
        ffn_output_norm: Norm after the feed-forward layer, before the residual adds its output.
        dropout: Probability of zeroing an output of the mixer or the feed-forward layer in training.
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
        output_norm: Factory = slot("norm", "none"),
        ffn_output_norm: Factory = slot("norm", "none"),
        dropout: Fraction = 0.0,
    ) -> None:
        super().__init__()
        self.residual = residual(dim, layer_index)
        self.num_streams = getattr(self.residual, "num_streams", None)
        self.norm, self.mixer = norm(dim), mixer(dim)
        self.ffn_norm, self.ffn = ffn_norm(dim), ffn(dim)
        self.output_norm, self.ffn_output_norm = output_norm(dim), ffn_output_norm(dim)
        self.dropout = nn.Dropout(dropout)
        if self.residual.needs_ffn and getattr(self.ffn, "adds_nothing", False):
            raise ValueError("this residual needs an ffn: without one the mixer would not reach the output")

    @property
    def branches(self) -> tuple[nn.Module, ...]:
        """The modules whose outputs the residual adds to the input."""
        pairs = ((self.output_norm, self.mixer), (self.ffn_output_norm, self.ffn))
        outer = (body if isinstance(norm, NoNorm) else norm for norm, body in pairs)
        branches: tuple[nn.Module, ...] = self.residual.added(*outer)
        return branches

    @property
    def kv_mixer(self) -> nn.Module | None:
        """The mixer, which a backbone has `give_kv` or `take_kv`, or None if it has no keys and values to share."""
        return self.mixer if getattr(self.mixer, "kv_kind", None) is not None else None

    @property
    def value_residual(self) -> nn.Module | None:
        """The mixer's, which a backbone has `give` or `receive` values, or None."""
        residual: nn.Module | None = getattr(self.mixer, "value_residual", None)
        return residual

    def forward(
        self, x_BTD: Tensor, state: State | None = None, **named: Any
    ) -> tuple[Tensor | tuple[Tensor, dict[str, Any]], State]:
        """Run both branches by the residual scheme; `named` holds values that earlier layers share with the mixer."""
        scope = StateScope(state)
        mixer = BlockBranch(scope, self, "norm", "mixer", "output_norm", named)
        ffn = BlockBranch(scope, self, "ffn_norm", "ffn", "ffn_output_norm")
        y_BTD = scope("residual", self.residual, x_BTD, mixer, ffn)
        return ((y_BTD, mixer.given) if mixer.given else y_BTD), scope.state


class BlockBranch:
    """A `Branch` of a block: a norm, and a body with a norm after it, whose state the scope carries.

    Their names are also the prefixes of their entries in the block's state. The body is called with the values that
    earlier layers share, `named`; those that it shares with later ones are in `given` after that.
    """

    def __init__(
        self,
        scope: StateScope,
        block: Any,
        norm: str,
        body: str,
        output_norm: str,
        named: Mapping[str, Any] | None = None,
    ) -> None:
        self.scope, self.block, self.names = scope, block, (norm, body, output_norm)
        self.named: Mapping[str, Any] = named or {}
        self.given: dict[str, Any] = {}

    def norm(self, x_BTD: Tensor) -> Tensor:
        """Normalize."""
        return self._call(self.names[0], x_BTD)

    def body(self, x_BTD: Tensor) -> Tensor:
        """Apply the mixer or ffn, then the norm of its output and dropout."""
        y = self._call(self.names[1], x_BTD, **self.named)
        if isinstance(y, tuple):
            y, self.given = y
        return self.block.dropout(self._call(self.names[2], y))

    def __call__(self, x_BTD: Tensor) -> Tensor:
        """Normalize, then apply the body."""
        return self.body(self.norm(x_BTD))

    def _call(self, name: str, x_BTD: Tensor, **named: Any) -> Any:
        return self.scope(name, getattr(self.block, name), x_BTD, **named)
