"""A context cut over ranks that all compute at once; each gets the summaries of the ranks before it.

A component that declares `carry="associative"` folds its piece of a sequence into a summary, which ranks gather; each
merges those before its own, and enters the state after them. A model is carried so if all of its state is; others go
by the relay (`archlab.parallel.relay`), which gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeGuard

from torch import Tensor, nn

from archlab.config.registry import component_of
from archlab.modeling.state import Recurrent, State
from archlab.ops.rank_sum import RankAxis, gather_with_gradient, tie_gradient


class Associative(Protocol):
    """The methods of a component that declares `carry="associative"`."""

    def summarize(self, *inputs: Tensor) -> State:
        """Return the summary of a piece of the sequence, batch first; nothing if later pieces read nothing of it."""

    def merge(self, earlier: State, later: State) -> State:
        """Return the summary of two pieces that follow each other."""

    def enter(self, summary: State) -> State:
        """Return the state after the pieces of a summary, the first of which starts the stream."""


class Carry:
    """The exchange of summaries among the ranks that have the pieces of a context; off outside of `running`."""

    def __init__(self, model: nn.Module, axis: RankAxis) -> None:
        self.axis, self.model, self.is_on = axis, model, False
        for part in model.modules():
            if part is not model and _is_associative(part):
                # On the instance: checkpointing and compilation come after, and see this as the layer's own.
                part.forward = partial(_enter_and_run, self, part, part.forward)

    @contextmanager
    def exchange(self, inputs: Tensor) -> Iterator[State | None]:
        """Have the layers exchange summaries in a block; yield the model's own state before its piece of the inputs."""
        self.is_on = True
        try:
            yield self.state_before(self.model, inputs)[1] if _is_associative(self.model) else None
        finally:
            self.is_on = False

    def state_before(self, part: Associative, *inputs: Tensor) -> tuple[Tensor, State | None]:
        """Return the first input, and the state after the pieces before this rank's: None where there is none."""
        own = part.summarize(*inputs)
        if not own:
            return inputs[0], None
        gathered = {name: gather_with_gradient(tensor, self.axis) for name, tensor in own.items()}
        first = inputs[0]
        for tensor in gathered.values():
            # A rank that reads no summary has to take part in the gradient of all of them.
            first = tie_gradient(first, tensor)
        if self.axis.index == 0:
            return first, None
        merged = {name: tensor[0] for name, tensor in gathered.items()}
        for rank in range(1, self.axis.index):
            merged = part.merge(merged, {name: tensor[rank] for name, tensor in gathered.items()})
        return first, part.enter(merged)


def can_carry(model: nn.Module) -> bool:
    """Return whether all state of a model is that of components which declare `carry="associative"`."""
    return all(_is_associative(part) for part in model.modules() if _has_own_state(part))


def _has_own_state(part: nn.Module) -> bool:
    return isinstance(part, Recurrent) and type(part).init_state is not Recurrent.init_state


def _is_associative(part: nn.Module) -> TypeGuard[Any]:
    component = component_of(type(part))
    # A part that is not a component, such as a delay of one token, declares it by having the methods.
    return hasattr(part, "summarize") and (component is None or component.carry == "associative")


def _enter_and_run(carry: Carry, part: Associative, forward: Any, *arguments: Any) -> Any:
    if not carry.is_on:
        return forward(*arguments)
    inputs = tuple(argument for argument in arguments if isinstance(argument, Tensor))
    first, state = carry.state_before(part, *inputs)
    return forward(first, *inputs[1:], state)
