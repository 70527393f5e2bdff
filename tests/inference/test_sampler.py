import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch

from archlab.inference.sampler import Sampler


def draw(logits: list[float], number: int, **settings: Any) -> Counter[int]:
    sampler = Sampler(**({"temperature": 1.0, "top_k": None, "top_p": None, "seed": 0} | settings))
    return Counter(itertools.islice(iter(lambda: sampler(torch.tensor(logits)), None), number))


LOGITS = [math.log(p) for p in (0.2, 0.5, 0.05, 0.25)]


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {0, 1, 3}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"top_p": 1e-9}, {1}),
        ({"top_p": 0.49}, {1}),
        ({"top_p": 0.7}, {1, 3}),
        ({"top_p": 1.0}, {0, 1, 2, 3}),
        ({"top_k": 2, "top_p": 0.6}, {1}),
        ({"temperature": 1e-300}, {1}),
        ({"temperature": 0.0, "top_k": 4}, {1}),
    ],
)
def test_only_the_allowed_tokens_are_drawn(settings: dict[str, Any], allowed: set[int]) -> None:
    assert set(draw(LOGITS, 400, **settings)) == allowed


@pytest.mark.slow
def test_frequencies_follow_the_probabilities() -> None:
    counts = draw(LOGITS, 4000)
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.2, 0.5, 0.05, 0.25], abs=0.03)
    hotter = draw(LOGITS, 4000, temperature=2.0)
    roots = [p**0.5 for p in (0.2, 0.5, 0.05, 0.25)]
    assert [hotter[token] / 4000 for token in range(4)] == pytest.approx([r / sum(roots) for r in roots], abs=0.03)


def test_a_masked_token_is_never_drawn() -> None:
    assert set(draw([0.0, -math.inf, 0.0], 100)) == {0, 2}
