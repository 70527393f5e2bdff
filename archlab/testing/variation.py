"""Other values for a component's knobs: at random, and one at a time to see that each has an effect."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

import torch

from archlab.config.registry import Slot, find, names
from archlab.config.schema import REQUIRED, Knob, union_members
from archlab.errors import ConfigError
from archlab.modeling.state import init_state
from archlab.testing.component_case import BATCH, PRECISE, CheckFailed, ComponentCase, loss_of

SMALL = (1, 2, 3, 4, 5, 8, 16)
DEPTH = 2
ATTEMPTS = 40
ENDS = ("embedding", "head")  # which say what a model reads and is asked, so that they stay as they are


def random_case(subject: ComponentCase, chance: random.Random) -> ComponentCase:
    """Return the component with knobs drawn at random, as they are where no draw gave a model."""
    for _ in range(ATTEMPTS):
        drawn = subject.with_knobs(**(_draw(subject.kind, subject.name, chance, DEPTH) | dict(subject.knobs)))
        if _builds(drawn):
            return drawn
    return subject


def _builds(subject: ComponentCase) -> bool:
    try:
        subject.spec()
    except ConfigError:
        return False
    return True


def _draw(kind: str, name: str, chance: random.Random, depth: int) -> dict[str, Any]:
    drawn = {}
    for knob in find(kind, name).knobs.values():
        values = list(_values(knob, chance, depth))
        if values and (_is_required(knob) or chance.random() < 0.5):
            drawn[knob.name] = chance.choice(values)
    return drawn


def _is_required(knob: Knob) -> bool:
    return knob.default is REQUIRED or (isinstance(knob.default, Slot) and knob.default.default is None)


def _values(knob: Knob, chance: random.Random, depth: int) -> Iterator[Any]:
    if not isinstance(knob.default, Slot):
        yield from _of_type(knob.type, knob.default)
    elif depth and not knob.default.many and knob.default.kind not in ENDS:
        kind = knob.default.kind
        yield from ({"type": name} | _draw(kind, name, chance, depth - 1) for name in names(kind))


def _of_type(expected: Any, default: Any) -> Iterator[Any]:
    """Yield a few values of a knob's type, near its default."""
    for member in union_members(expected):
        values = get_args(member.type) if get_origin(member.type) is Literal else _scalar_values(member.type, default)
        yield from (value for value in values if all(value in limit for limit in member.ranges))


def _scalar_values(expected: Any, default: Any) -> Iterable[Any]:
    values = {bool: (False, True), int: SMALL, float: (*_floats(default),), type(None): (None,)}
    return values.get(expected, ())


def _floats(default: Any) -> Iterator[float]:
    if isinstance(default, int | float) and default:
        yield from (default * factor for factor in (0.5, 1.0, 1.5, 4.0))
    yield from (0.0, 0.25, 1.0)


def no_knob_is_dead(subject: ComponentCase) -> None:
    """Every knob changes the parameters, their first values, the function, the state, or what is learned."""
    for knob in find(subject.kind, subject.name).knobs.values():
        if not any(_has_effect(there, knob) for there in _surroundings(subject)):
            raise CheckFailed(f"the knob {knob.name!r} has no effect")


def _surroundings(subject: ComponentCase) -> Iterator[ComponentCase]:
    """Yield the component as it is, then with other knobs drawn at random: some knobs matter only beside others."""
    yield subject
    chance = random.Random(0)
    for _ in range(ATTEMPTS):
        yield random_case(subject, chance)


def _has_effect(subject: ComponentCase, knob: Knob) -> bool:
    try:
        known = _fingerprint(subject)
    except ConfigError:
        return False
    return any(_differs(known, subject.with_knobs(**{knob.name: value})) for value in _others(knob))


def _others(knob: Knob) -> Iterator[Any]:
    if not isinstance(knob.default, Slot):
        yield from _of_type(knob.type, knob.default)
    elif knob.default.many:
        yield from ([entry] * count for entry in _values_of_slot(knob.default) for count in (1, 2))
    else:
        yield from _values_of_slot(knob.default)


def _values_of_slot(slot: Slot) -> Iterator[Any]:
    """Yield components for a slot, as they are and with a few knobs drawn at random."""
    chance = random.Random(0)
    for name in names(slot.kind):
        yield {"type": name}
        yield from ({"type": name} | _draw(slot.kind, name, chance, 1) for _ in range(2))


def _differs(known: list[Any], other: ComponentCase) -> bool:
    try:
        found = _fingerprint(other)
    except ConfigError:
        return False
    except (IndexError, RuntimeError, ValueError):  # the model can no longer read what it could
        return True
    return len(found) != len(known) or any(not _same(a, b) for a, b in zip(found, known, strict=True))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return bool(a == b)


def _fingerprint(subject: ComponentCase) -> list[Any]:
    """Return all that a knob could change: names and values of parameters, state, outputs and gradients."""
    fresh = torch.nn.utils.parameters_to_vector(_untouched(subject))
    model = subject.build().train()
    inputs = subject.read()
    inputs = inputs.to(PRECISE) if inputs.is_floating_point() else inputs
    torch.manual_seed(0)
    loss = loss_of(model, inputs)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    state = {key: tuple(value.shape) for key, value in init_state(model, BATCH).items()}
    return [[name for name, _ in model.named_parameters()], fresh, state, loss, *gradients]


def _untouched(subject: ComponentCase) -> list[torch.Tensor]:
    from archlab.modeling.build import build

    return list(build(subject.spec()).parameters())
