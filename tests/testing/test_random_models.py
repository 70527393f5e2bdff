"""Stacks of any components with random knobs: the checks of the conformance suite that hold whatever the knobs."""

import random

import pytest
import torch
from conftest import seeds

from archlab.testing import ComponentCase
from archlab.testing.component_case import loss_of
from archlab.testing.export import exports
from archlab.testing.gradient_checks import compiles, slopes_are_exact
from archlab.testing.random_models import random_model
from archlab.testing.stream_checks import (
    can_save_state,
    chunked_equals_whole,
    has_fixed_size_state,
    packed_equals_separate,
    rows_are_independent,
)

CHECKS = (
    *(chunked_equals_whole, has_fixed_size_state, can_save_state, rows_are_independent),
    *(packed_equals_separate, slopes_are_exact, exports),
)


def draw(seed: int) -> ComponentCase:
    """Return a random model; every third has the default knobs wherever these fit."""
    return random_model(random.Random(seed), share=0.5 if seed % 3 else 0.0)


@pytest.fixture(scope="module", params=seeds(8))
def case(request: pytest.FixtureRequest) -> ComponentCase:
    return draw(request.param)


@pytest.mark.slow
def test_whatever_the_layers(case: ComponentCase) -> None:
    for check in CHECKS:
        check(case)


@pytest.mark.slow
def test_gradients_are_finite_whatever_the_layers(case: ComponentCase) -> None:
    model = case.build(torch.float32)  # in evaluation mode: a dropout may be drawn that leaves nothing
    loss_of(model, case.example_inputs()).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


@pytest.mark.services
@pytest.mark.parametrize("seed", seeds(2))
def test_layers_compile_whatever_they_are(seed: int) -> None:
    compiles(draw(seed))
