from __future__ import annotations

from torch import Tensor, nn

from archlab import Factory, Positive, Recurrent, State, StateScope, interval, register, slot
from archlab.components._factor import times

FACTOR = interval(0.1, 4.0, log=True)


@register("mixer", "parallel", search={"first_output_factor": FACTOR, "second_output_factor": FACTOR})
class ParallelMixers(Recurrent):
    """Two mixers of the same input side by side, whose outputs are added, as in Falcon-H1 (arXiv:2507.22448).

    x: [B, T, D] -> [B, T, D].  Each output is c * mixer(a * x); a further mixer of this kind makes it three.

    Args:
        first: One mixer.
        second: The other mixer.
        first_input_factor: Factor a of the first mixer's input.
        first_output_factor: Factor c of the first mixer's output.
        second_input_factor: Factor a of the second mixer's input.
        second_output_factor: Factor c of the second mixer's output.
    """

    def __init__(
        self,
        dim: int,
        *,
        first: Factory = slot("mixer", "mamba2"),
        second: Factory = slot("mixer", "attention"),
        first_input_factor: Positive = 1.0,
        first_output_factor: Positive = 1.0,
        second_input_factor: Positive = 1.0,
        second_output_factor: Positive = 1.0,
    ) -> None:
        super().__init__()
        self.first, self.second = first(dim), second(dim)
        self.first_factors = (first_input_factor, first_output_factor)
        self.second_factors = (second_input_factor, second_output_factor)

    @property
    def branches(self) -> tuple[nn.Module, ...]:
        """The modules whose outputs are added up."""
        return self.first, self.second

    def forward(self, x_BTD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run both mixers and add their outputs."""
        scope = StateScope(state)
        first = scope("first", self.first, times(self.first_factors[0], x_BTD))
        second = scope("second", self.second, times(self.second_factors[0], x_BTD))
        return times(self.first_factors[1], first) + times(self.second_factors[1], second), scope.state
