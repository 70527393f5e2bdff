"""How order may enter a model.

Dimensions: B batch (1 where all samples share their positions), T tokens, D features, H heads, K features of a
head, Q query tokens, S key tokens.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self, TypeAlias

from torch import Tensor, nn

Place: TypeAlias = Literal["attention", "embedding", "any"]


class Position(nn.Module):
    """A way for order to enter: a subclass overrides the one hook it works through.

    Built with (num_heads, head_dim) in an attention, and with (1, dim) beside an embedding. Positions are int64.
    """

    place: ClassVar[Place] = "attention"

    def embed(self, x_BTD: Tensor, position_BT: Tensor) -> Tensor:
        """Return embedded tokens with their positions mixed in."""
        return x_BTD

    def rotate(self, x_BTHK: Tensor, position_BT: Tensor) -> Tensor:
        """Return queries or keys with their positions mixed in."""
        return x_BTHK

    def bias(self, query_BQ: Tensor, key_BS: Tensor) -> Tensor | None:
        """Return what is added to the scores [B, H, Q, S], or None."""
        return None

    def placed(self, place: Place) -> Self:
        """Return itself; raise ValueError where it does not work at this place."""
        if self.place not in (place, "any"):
            raise ValueError(f"{type(self).__name__} works beside the {self.place}, not the {place}")
        return self
