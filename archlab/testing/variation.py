"""Random values for a component's knobs, and the check that every knob has an effect."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice, tee
from typing import Any, Literal, get_args, get_origin

import torch

from archlab.config.registry import Slot, find, names
from archlab.config.schema import REQUIRED, Knob, union_members
from archlab.errors import ConfigError
from archlab.modeling.build import build
from archlab.modeling.state import init_state
from archlab.testing.component_case import BATCH, PRECISE, CheckFailed, ComponentCase, loss_of, with_noise

SMALL = (1, 2, 3, 4, 5, 8, 16)
DEPTH = 2
HALF = 0.5
ATTEMPTS = 40
_DRAWS = 6  # of a component of a slot at least: few of them build where widths are as small as here
ENDS = ("embedding", "head")  # never varied: they define the inputs and outputs of the model


def random_case(case: ComponentCase, rng: random.Random) -> ComponentCase:
    """Return the component with randomly drawn knobs, or unchanged if no draw gave a valid model."""
    for _ in range(ATTEMPTS):
        drawn = case.with_knobs(**(draw_knobs(case.kind, case.name, rng) | dict(case.knobs)))
        if _builds(drawn):
            return drawn
    return case


def _builds(case: ComponentCase) -> bool:
    try:
        case.spec()
    except ConfigError:
        return False
    return True


def draw_knobs(kind: str, name: str, rng: random.Random, depth: int = DEPTH, share: float = HALF) -> dict[str, Any]:
    """Return random values of knobs: of all without a default, half of the slots, and a share of the others."""
    knobs = {}
    for knob in find(kind, name).knobs.values():
        values = list(_values(knob, rng, depth, share))
        chance = HALF if isinstance(knob.default, Slot) else share
        if values and (_is_required(knob) or rng.random() < chance):
            knobs[knob.name] = rng.choice(values)
    return knobs


def _is_required(knob: Knob) -> bool:
    return knob.default is REQUIRED or (isinstance(knob.default, Slot) and knob.default.default is None)


def _values(knob: Knob, rng: random.Random, depth: int, share: float) -> Iterator[Any]:
    if not isinstance(knob.default, Slot):
        yield from _values_of_type(knob.type, knob.default)
    elif depth and not knob.default.many and knob.default.kind not in ENDS:
        kind = knob.default.kind
        yield from ({"type": name} | draw_knobs(kind, name, rng, depth - 1, share) for name in names(kind))


def _values_of_type(expected: Any, default: Any) -> Iterator[Any]:
    """Yield a few values of a knob's type, near its default."""
    for member in union_members(expected):
        origin, args = get_origin(member.type), get_args(member.type)
        if origin is list:
            yield from ([], *([value] for value in _values_of_type(args[0], None)))
            continue
        values = args if origin is Literal else _scalar_values(member.type, default)
        yield from (value for value in values if all(value in limit for limit in member.ranges))


def _scalar_values(expected: Any, default: Any) -> Iterable[Any]:
    values = {bool: (False, True), int: SMALL, float: (*_floats(default),), type(None): (None,)}
    return values.get(expected, ())


def _floats(default: Any) -> Iterator[float]:
    if isinstance(default, int | float) and default:
        yield from (default * factor for factor in (0.5, 1.0, 1.5, 4.0))
    yield from (0.0, 0.25, 1.0)


def has_no_dead_knob(case: ComponentCase) -> None:
    """Every knob changes the parameters, their initial values, the outputs, the state, or the gradients."""
    contexts: Iterator[_Context] = map(_Context, variants(case))
    for knob in find(case.kind, case.name).knobs.values():
        contexts, tried = tee(contexts)  # each is drawn and computed once, and only when a knob needs it
        if not any(_has_effect(context, knob) for context in tried):
            raise CheckFailed(f"the knob {knob.name!r} has no effect")


def variants(case: ComponentCase) -> Iterator[ComponentCase]:
    """Yield the component itself, then with random knobs: some knobs have an effect only together with others.

    The last ones change the case's own knobs too, one at a time, which may rule out the change.
    """
    yield case
    rng = random.Random(0)
    for _ in range(ATTEMPTS):
        yield random_case(case, rng)
    for name in case.knobs:
        values = cycle(other_values(find(case.kind, case.name).knobs[name]))
        others = (case.with_knobs(**{name: value}) for value in islice(values, ATTEMPTS))
        yield from filter(_builds, (random_case(other, rng) for other in others))


@dataclass(frozen=True)
class _Context:
    """A case in which a knob is varied; `fingerprint` is None if the case itself gives none."""

    case: ComponentCase

    @cached_property
    def fingerprint(self) -> list[Any] | None:
        try:
            return list(_fingerprint(self.case))
        except (ConfigError, IndexError):  # a vocabulary smaller than the tokens, for one
            return None


def _has_effect(context: _Context, knob: Knob) -> bool:
    original, case = context.fingerprint, context.case
    if original is None:
        return False
    return any(_differs(original, case.with_knobs(**{knob.name: value})) for value in other_values(knob))


def other_values(knob: Knob) -> Iterator[Any]:
    """Yield values that a knob may have in place of its default."""
    if not isinstance(knob.default, Slot):
        yield from _values_of_type(knob.type, knob.default)
    elif knob.default.many:
        yield from ([entry] * count for entry in _values_of_slot(knob.default) for count in (1, 2))
    else:
        yield from _values_of_slot(knob.default)


def _values_of_slot(slot: Slot) -> Iterator[Any]:
    """Yield components for a slot, with default knobs and with random ones, more of each where there are few."""
    rng, choices = random.Random(0), names(slot.kind)
    num_draws = max(_DRAWS, ATTEMPTS // len(choices))
    for name in choices:
        yield {"type": name}
        yield from ({"type": name} | draw_knobs(slot.kind, name, rng, 1) for _ in range(num_draws))


def _differs(original: list[Any], other: ComponentCase) -> bool:
    try:
        # The names of the parameters come first: where they agree, there are as many gradients.
        return not all(_is_same(a, b) for a, b in zip(original, _fingerprint(other), strict=False))
    except ConfigError:
        return False
    except (IndexError, RuntimeError, ValueError):  # the model no longer accepts the inputs
        return True


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return bool(a == b)


def _fingerprint(case: ComponentCase) -> Iterator[Any]:
    """Yield everything a knob can change: names and initial values of parameters, state shapes, loss and gradients."""
    model = build(case.spec())
    yield [name for name, _ in model.named_parameters()]
    # Before the case's noise, which would hide a knob that only scales the initial values.
    yield torch.nn.utils.parameters_to_vector(model.parameters())
    model = with_noise(model, PRECISE).train()
    inputs = case.example_inputs(dtype=PRECISE)
    torch.manual_seed(0)  # dropout, a knob too, must draw alike in both models
    loss = loss_of(model, inputs)
    yield {key: tuple(value.shape) for key, value in init_state(model, BATCH).items()}
    yield loss
    yield from torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
