"""Orders and samples are functions of their seeds, and the same on every machine."""

from collections import Counter

import numpy as np

from archlab.data.sampling import block_order, epoch_order, random_state, sample_without_replacement
from archlab.data.splits import split_by_tokens


def test_streams_never_change() -> None:
    assert random_state(1, 2).randint(0, 1000, 4).tolist() == [857, 450, 560, 413]
    assert epoch_order(6, 3, 0).tolist() == [1, 0, 2, 5, 3, 4]


def test_blocks_are_permuted_whole() -> None:
    order = block_order(10, 4, 0, 1).tolist()
    assert sorted(order) == list(range(10))
    blocks = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert order in [a + b + c for a in blocks for b in blocks for c in blocks]
    assert {tuple(block_order(10, 4, 0, epoch)) for epoch in range(20)} != {tuple(order)}


def test_arrangements_without_replacement_are_equally_likely() -> None:
    rows = sample_without_replacement(random_state(0), 6000, 3, 2)
    counts = Counter(map(tuple, rows.tolist()))
    assert sorted(counts) == [(a, b) for a in range(3) for b in range(3) if a != b]
    assert all(abs(count / 1000 - 1) < 0.15 for count in counts.values())


def test_a_split_depends_on_the_tokens_but_not_on_padding() -> None:
    tokens = random_state(0).randint(1, 9, (4000, 12), np.int64)
    splits = split_by_tokens(tokens)
    assert (split_by_tokens(np.pad(tokens, ((0, 0), (5, 0)))) == splits).all()
    np.testing.assert_allclose(np.bincount(splits) / 4000, [6 / 8, 1 / 8, 1 / 8], atol=0.02)
