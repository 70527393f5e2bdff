"""Position encodings: added to embeddings, applied to queries and keys, or added to attention scores.

Dimensions: B batch (1 where all samples share their positions), T tokens, D features, H heads, K features of a
head, Q query tokens, S key tokens.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar, Literal, Self, TypeAlias

from torch import Tensor, nn

Place: TypeAlias = Literal["attention", "embedding", "any"]


class Position(nn.Module):
    """A position encoding: a subclass overrides one of embed, rotate and bias.

    Constructed with (num_heads, head_dim) for attention, and with (1, dim) for an embedding. Positions are int64.
    """

    place: ClassVar[Place] = "attention"

    def embed(self, x_BTD: Tensor, position_BT: Tensor) -> Tensor:
        """Return embedded tokens with their positions added."""
        return x_BTD

    def rotate(self, x_BTHK: Tensor, position_BT: Tensor) -> Tensor:
        """Return queries or keys rotated by their positions."""
        return x_BTHK

    def bias(self, query_BQ: Tensor, key_BS: Tensor) -> Tensor | None:
        """Return the bias of the scores [B, H, Q, S], or None."""
        return None

    @property
    def rotation(self) -> Hashable:
        """Properties of rotated keys beside their positions: equal in encodings with the same rotation."""
        if type(self).rotate is Position.rotate:
            return None
        knobs = {name: value for name, value in vars(self).items() if name != "training" and not name.startswith("_")}
        return type(self).__name__, repr(sorted(knobs.items()))

    def require_place(self, place: Place) -> Self:
        """Return itself; raise ValueError where it does not work at this place."""
        if self.place not in (place, "any"):
            raise ValueError(f"{type(self).__name__} is a position of the {self.place}, not of the {place}")
        return self
