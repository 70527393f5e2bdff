"""Random models: layers of any mixers, norms, ffns and residuals, between any ends, with random knobs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from archlab.config.registry import names
from archlab.errors import ConfigError
from archlab.testing.component_case import VOCAB_SIZE, ComponentCase
from archlab.testing.variation import HALF, draw_knobs

DIMS = (6, 8, 12, 15, 16, 20, 24, 36)
MAX_LAYERS = 4
ATTEMPTS = 60
# Of a model that reads tokens, and answers at every step.
ENDS = {
    "embedding": ("tokens", "factored", "adaptive"),
    "head": ("language_model", "factored", "adaptive", "multi_token"),
}
# A task needs outputs for all of its tokens, and a context longer than its targets.
OF_THE_TASK = ("num_outputs", "depth")


def random_model(rng: random.Random, share: float = HALF) -> ComponentCase:
    """Return a causal stack of 1 to 4 random layers, any of which may differ from the others, as a case of the suite.

    `share` of the knobs other than components are drawn; the others have their defaults where the widths allow.
    """
    sizes = {"vocab_size": VOCAB_SIZE + rng.randrange(8), "dim": rng.choice(DIMS), "layers": []}
    model, depth = ComponentCase("backbone", "stack", sizes), rng.randint(1, MAX_LAYERS)
    while len(model.knobs["layers"]) < depth:
        model = _first_that_fits(_with_layer(model, rng, share)) or model
    return _first_that_fits(_with_ends(model, rng, share)) or model


def _first_that_fits(cases: Iterator[ComponentCase]) -> ComponentCase | None:
    return next(filter(_fits, cases), None)


def _fits(case: ComponentCase) -> bool:
    try:
        parts = case.spec().walk()
    except ConfigError:
        return False
    return all(getattr(part.component.cls, "causal", True) for part in parts)


def _with_layer(model: ComponentCase, rng: random.Random, share: float) -> Iterator[ComponentCase]:
    """Yield the model with one more layer, always of one mixer: some mixers fit more widths than others."""
    mixer = rng.choice(names("mixer"))
    for attempt in range(ATTEMPTS):
        # Defaults may be too wide for any attempt.
        drawn = share if attempt < ATTEMPTS // 4 else HALF
        own = {"mixer": _component("mixer", mixer, rng, drawn), "repeat": rng.choice((1, 1, 2))}
        layer = {**_component("layer", "block", rng, drawn), **own}
        yield model.with_knobs(layers=[*model.knobs["layers"], layer])


def _with_ends(model: ComponentCase, rng: random.Random, share: float) -> Iterator[ComponentCase]:
    for _ in range(ATTEMPTS):
        ends = {kind: _component(kind, rng.choice(choices), rng, share) for kind, choices in ENDS.items()}
        for end in ends.values():
            for knob in OF_THE_TASK:
                end.pop(knob, None)
        yield model.with_knobs(**(draw_knobs(model.kind, model.name, rng, share=share) | dict(model.knobs) | ends))


def _component(kind: str, name: str, rng: random.Random, share: float) -> dict[str, Any]:
    return {"type": name} | draw_knobs(kind, name, rng, share=share)
