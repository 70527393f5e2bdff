from __future__ import annotations

from archlab import TensorPlan, register

from ._base import Position


@register("position", "none", tensor=TensorPlan())
class NoPosition(Position):
    """No position encoding: masks and recurrences alone convey the order."""

    place = "any"

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
