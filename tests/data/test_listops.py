"""Random trees have the distribution of Long Range Arena."""

import numpy as np
import pytest

from archlab.data.listops import count_tokens, evaluate_trees, grow_trees


@pytest.mark.slow
def test_trees_grow_as_long_range_arena_grows_them():
    levels = grow_trees(np.random.RandomState(0), 40000, 10, 10)
    for level in levels[:-1]:
        assert abs(level.is_operator.mean() - 0.25) < 0.01
        for kind in (level.choice[~level.is_operator], level.choice[level.is_operator]):
            shares = np.bincount(kind) / len(kind)
            np.testing.assert_allclose(shares, 1 / len(shares), atol=0.015)
        counts = np.bincount(level.num_args[level.is_operator], minlength=11)[2:]
        np.testing.assert_allclose(counts / counts.sum(), 1 / 9, atol=0.02)
    assert not levels[-1].is_operator.any()
    assert abs((count_tokens(levels)[0] == 1).mean() - 0.75) < 0.01


def test_a_tree_of_one_leaf_is_its_digit():
    levels = grow_trees(np.random.RandomState(0), 50, 1, 10)
    assert (evaluate_trees(levels) == levels[0].choice).all()
    assert (count_tokens(levels)[0] == 1).all()
