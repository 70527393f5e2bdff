"""The checks that every component has to pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from archlab.testing.component_case import ComponentCase
from archlab.testing.gradient_checks import (
    bfloat16_is_close,
    compiles,
    has_all_gradients,
    has_exact_gradients,
)
from archlab.testing.stream_checks import (
    can_save_state,
    chunked_equals_whole,
    chunked_equals_whole_in_float32,
    has_fixed_size_state,
    is_causal,
    packed_equals_separate,
    rows_are_independent,
)


def default_checks() -> Iterator[Callable[[ComponentCase], None]]:
    """Yield the checks that need one model alone, and no variation of its knobs."""
    yield from (is_causal, chunked_equals_whole, chunked_equals_whole_in_float32, has_fixed_size_state, can_save_state)
    yield from (rows_are_independent, packed_equals_separate)
    yield from (has_all_gradients, has_exact_gradients, compiles, bfloat16_is_close)
