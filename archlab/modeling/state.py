"""Time: what a layer remembers between calls, as a flat mapping of tensors that never grow.

Every tensor of a state has the batch as its first dimension, so that samples can be picked or reordered.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

State: TypeAlias = dict[str, Tensor]


AUXILIARY_LOSS = "auxiliary_loss"


def auxiliary_loss(state: State) -> Tensor:
    """Return the losses that layers add to the task's own [B], summed over the tokens of a stream; 0 [] without any.

    A layer that has one keeps its sum since the beginning as the entry `auxiliary_loss` [B] of its state.
    """
    found = (loss_B for name, loss_B in state.items() if name.rpartition(".")[2] == AUXILIARY_LOSS)
    return sum(found, start=torch.zeros(()))


class Recurrent(nn.Module):
    """A layer that remembers: `y, state = layer(x, state)`, where `state=None` is the beginning.

    One call on many tokens and many calls on few give the same outputs. A layer made of others
    inherits `init_state`; one that keeps tensors of its own overrides it.
    """

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first token."""
        return _init_children(self, batch_size)


def init_state(model: nn.Module, batch_size: int) -> State:
    """Return the state of any model before its first token: nothing, for one that does not remember."""
    return model.init_state(batch_size) if isinstance(model, Recurrent) else {}


def max_context(module: nn.Module) -> int | None:
    """Return how many tokens one stream may hold, or None where no part sets a limit.

    A part sets one by an attribute `max_context`, by which it speaks for all that it is made of.
    """
    if hasattr(module, "max_context"):
        return module.max_context  # type: ignore[return-value]
    limits = (max_context(part) for part in module.children())
    return min((limit for limit in limits if limit is not None), default=None)


def _init_children(module: nn.Module, batch_size: int) -> State:
    state: State = {}
    for name, child in module.named_children():
        below = init_state(child, batch_size)
        below = below or (_init_children(child, batch_size) if isinstance(child, nn.ModuleList) else {})
        state.update({f"{name}.{key}": value for key, value in below.items()})
    return state


class StateScope:
    """Carries a composite layer's state to its parts, and collects what they leave behind.

    `stream("ema", self.ema, x)` calls a part that remembers with its own piece of the state, and a
    part that does not as a plain function, so that either fits any slot.
    """

    def __init__(self, state: State | None) -> None:
        self.initial, self.state = state, {}  # type: tuple[State | None, State]

    def __call__(self, name: str, part: nn.Module, *inputs: Any) -> Any:
        """Return the part's output, its state kept."""
        if not isinstance(part, Recurrent):
            return part(*inputs)
        output, state = part(*inputs, self._piece(name))
        self.state.update({f"{name}.{key}": value for key, value in state.items()})
        return output

    def _piece(self, name: str) -> State | None:
        if self.initial is None:
            return None
        prefix = f"{name}."
        return {key[len(prefix) :]: value for key, value in self.initial.items() if key.startswith(prefix)}
