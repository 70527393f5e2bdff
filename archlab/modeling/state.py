"""Recurrent state of a model: a flat mapping from names to tensors of a bounded size.

The first dimension of every tensor is the batch, so that samples can be selected and reordered. A tensor holds what was
read and no more: up to its bound it grows along its second dimension, at the end, unless room was reserved. [B] is the
batch. A child that a layer calls several times has a state for each call: `NAME`, `NAME@1`, `NAME@2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

State: TypeAlias = dict[str, Tensor]
AUXILIARY_LOSS = "auxiliary_loss"
UPDATE_SUM = "update_sum"
RESERVED = "reserved"  # entry [B] of a layer's state whose tensors are preallocated, and so do not grow


def auxiliary_loss(state: State) -> Tensor:
    """Return the sum of the layers' auxiliary losses [B], each summed over the tokens of a stream; 0 [] without any.

    A layer with one accumulates it from the first token on in the entry `auxiliary_loss` [B] of its state.
    """
    losses = (loss_B for name, loss_B in state.items() if name.rpartition(".")[2] == AUXILIARY_LOSS)
    return sum(losses, start=torch.zeros(()))


def update_sums(state: State) -> dict[str, Tensor]:
    """Return the layers' counts over the tokens of an update, summed over streams, by the layer's path.

    A layer that counts accumulates it from the first token on in the entry `update_sum` [B, ...] of its state, as
    integers. After an optimizer step `layer.finish_update(sum)` gets the sum over all tokens of the update, in all of
    the layer's calls.
    """
    sums: dict[str, Tensor] = {}
    for name, tensor in state.items():
        path, _, entry = name.rpartition(".")
        if entry == UPDATE_SUM:
            path = re.sub(r"@\d+", "", path)
            sums[path] = tensor.detach().sum(0) + sums.get(path, 0)
    return sums


def call_name(name: str, call: int) -> str:
    """Return the name under which a layer's state has that of a child's call, of which 0 is the first."""
    return f"{name}@{call}" if call else name


def find_training_sum(module: nn.Module) -> str | None:
    """Return the path of the first part that sums a loss of its own, or counts, over all tokens that it is given."""
    names = (name.rpartition(".") for name in init_state(module, 1))
    return next((path for path, _, entry in names if entry in (AUXILIARY_LOSS, UPDATE_SUM)), None)


class Recurrent(nn.Module):
    """Base class of layers with a state: `y, state = layer(x, state)`, where `state=None` starts a stream.

    Splitting the tokens among several calls does not change the outputs. A layer whose children alone have state
    inherits `init_state`; one with tensors of its own overrides it.
    """

    def init_state(self, batch_size: int) -> State:
        """Return the state before the first token."""
        return _init_children(self, batch_size)

    def reserve_state(self, state: State, num_tokens: int | None) -> State:
        """Return the state with room for a stream of `num_tokens` tokens, or of any length: see `reserve_state`."""
        return _reserve_children(self, state, num_tokens)


def init_state(model: nn.Module, batch_size: int) -> State:
    """Return the state of any module before the first token; empty unless it is Recurrent."""
    return model.init_state(batch_size) if isinstance(model, Recurrent) else {}


def reserve_state(model: nn.Module, state: State, num_tokens: int | None = None) -> State:
    """Return a state whose shapes no call changes, with room for a stream of `num_tokens` tokens, or of any length.

    The tokens already read count too. Without reserved room a state grows with what is read, and so is copied at every
    call; programs compiled for one shape need it.
    """
    return model.reserve_state(state, num_tokens) if isinstance(model, Recurrent) else state


def state_bytes(state: State) -> int:
    """Return the size of a state's tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def max_context(module: nn.Module) -> int | None:
    """Return how many tokens a stream may hold, the minimum over the modules, or None if there is no limit.

    A module that declares `max_context` (see `archlab.modeling.backbone.Part`) speaks for all modules below it.
    """
    if hasattr(module, "max_context"):
        return module.max_context  # type: ignore[return-value]
    limits = (max_context(part) for part in module.children())
    return min((limit for limit in limits if limit is not None), default=None)


def _init_children(module: nn.Module, batch_size: int) -> State:
    state: State = {}
    for name, child in module.named_children():
        # A list of layers is not Recurrent itself, but its layers may be.
        is_plain_list = isinstance(child, nn.ModuleList) and not isinstance(child, Recurrent)
        child_state = _init_children(child, batch_size) if is_plain_list else init_state(child, batch_size)
        state.update({f"{name}.{key}": value for key, value in child_state.items()})
    return state


def _reserve_children(module: nn.Module, state: State, num_tokens: int | None) -> State:
    for child_name, child in module.named_children():
        for name in _calls(state, child_name):  # none where a child is called without a state
            is_plain_list = isinstance(child, nn.ModuleList) and not isinstance(child, Recurrent)
            reserve = _reserve_children if is_plain_list else reserve_state
            state = _replace(state, name, reserve(child, _select(state, name), num_tokens))
    return state


def _calls(state: State, name: str) -> Iterator[str]:
    """Yield the names of a child's calls, those of which there is a state."""
    firsts = dict.fromkeys(key.partition(".")[0] for key in state if "." in key)
    yield from (first for first in firsts if first.partition("@")[0] == name)


def _replace(state: State, name: str, own: State) -> State:
    """Return the state with other entries of a child, at the same place: torch.compile guards the order of the keys."""
    named = {f"{name}.{key}": value for key, value in own.items()}
    first = next(key for key in state if key.startswith(f"{name}."))
    replaced: State = {}
    for key, value in state.items():
        replaced |= named if key == first else {} if key.startswith(f"{name}.") else {key: value}
    return replaced


def _select(state: State, name: str) -> State:
    """Return the entries of a child's state, by the child's own names."""
    prefix = f"{name}."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


class StateScope:
    """Passes each child its part of a composite layer's state, and collects the children's new states in `state`.

    `scope("ema", self.ema, x)` calls a Recurrent child with the entries below `ema.`, and any other module without a
    state, so that either fits a slot. Names must be those of the attributes, which prefix the entries of `init_state`.
    A child that is called again has another state, whose entries are below `ema@1.`.
    """

    def __init__(self, state: State | None) -> None:
        self.initial, self.state = state, {}  # type: tuple[State | None, State]
        self._num_calls: dict[str, int] = {}

    def __call__(self, name: str, part: nn.Module, *inputs: Any, **named: Any) -> Any:
        """Call a child with its state; store its new state and return its output."""
        if not isinstance(part, Recurrent):
            return part(*inputs, **named)
        call = self._num_calls.get(name, 0)
        self._num_calls[name], name = call + 1, call_name(name, call)
        output, state = part(*inputs, self._child_state(name), **named)
        self.state.update({f"{name}.{key}": value for key, value in state.items()})
        return output

    def _child_state(self, name: str) -> State | None:
        # A child without an entry starts its stream, or gets its state otherwise.
        return None if self.initial is None else _select(self.initial, name) or None
