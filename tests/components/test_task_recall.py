"""The recall task: pairs, then queries, whose answers can be looked up in the inputs."""

import numpy as np
import pytest
import torch

from archlab import ArchlabError
from archlab.components.task.recall import Recall
from archlab.config.registry import find


def small(**knobs) -> Recall:
    return Recall(**({"vocab_size": 64, "num_pairs": 4, "eval_size": 40} | knobs))


def test_it_is_known_to_yaml() -> None:
    assert find("task", "recall").cls is Recall
    assert (Recall().vocab_size, Recall().num_outputs, Recall().per_sample, Recall().predicts_next) == (
        8192,
        8192,
        False,
        False,
    )


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(("pairs", "context", "vocab"), [(4, 16, 64), (7, 41, 17), (1, 4, 8)])
def test_targets_are_what_stood_behind_the_key(split: str, pairs: int, context: int, vocab: int) -> None:
    task = small(num_pairs=pairs, vocab_size=vocab)
    inputs, targets = task.batch(split, 1, 20, context, 3)
    for tokens, asked in zip(inputs.tolist(), targets.tolist(), strict=True):
        keys, values = tokens[: 2 * pairs : 2], tokens[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert all(1 <= key < vocab // 2 <= value < vocab for key, value in zip(keys, values, strict=True))
        known = dict(zip(keys, values, strict=True))
        queries = [place for place, target in enumerate(asked) if target != -100]
        assert sorted(tokens[place] for place in queries) == sorted(keys)
        assert all(place >= 2 * pairs and place % 2 == 0 for place in queries)
        assert all(known[tokens[place]] == asked[place] for place in queries)


def test_between_the_queries_are_random_tokens_or_zeros() -> None:
    inputs, targets = small(random_non_queries=False).batch("train", 0, 50, 40, 0)
    assert (inputs[:, 8:][targets[:, 8:] == -100] == 0).all()
    inputs, targets = small().batch("train", 0, 400, 40, 0)
    filler = inputs[:, 8:][targets[:, 8:] == -100]
    assert filler.unique().tolist() == list(range(64))
    assert filler.bincount().float().std() < 3 * filler.bincount().float().mean().sqrt()


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_queries_are_spread_by_the_power(power: float) -> None:
    places = small(power_a=power)._sample_positions(np.random.RandomState(0), 4000, 12)
    assert all(len(set(row)) == 4 for row in places.tolist())
    weight = np.arange(1, 13) ** (power - 1)
    drawn = [np.random.RandomState(seed).choice(12, 4, replace=False, p=weight / weight.sum()) for seed in range(4000)]
    found, expected = (np.bincount(np.ravel(rows), minlength=12) / 4000 for rows in (places, drawn))
    np.testing.assert_allclose(found, expected, atol=0.04)
    firsts = np.bincount(places[:, 0], minlength=12) / 4000
    np.testing.assert_allclose(firsts, weight / weight.sum(), atol=0.03)


def test_keys_and_values_are_equally_likely() -> None:
    inputs, _ = small(vocab_size=20, num_pairs=4).batch("train", 0, 3000, 16, 0)
    for part, tokens in ((inputs[:, 0:8:2], range(1, 10)), (inputs[:, 1:8:2], range(10, 20))):
        for place in range(4):
            share = part[:, place].bincount(minlength=20)[list(tokens)] / 3000
            torch.testing.assert_close(share, torch.full_like(share, 1 / len(tokens)), atol=0.03, rtol=0)


def test_the_samples_never_change() -> None:
    inputs, targets = small(num_pairs=2, vocab_size=12).batch("train", 0, 2, 8, 0)
    assert inputs.tolist() == INPUTS
    assert targets.tolist() == TARGETS
    evaluated, _ = next(iter(small(num_pairs=2, vocab_size=12).eval_batches("test", 1, 8)))
    assert evaluated.tolist() == EVALUATED


INPUTS = [[4, 6, 1, 7, 4, 2, 1, 8], [1, 7, 2, 10, 1, 10, 2, 1]]
TARGETS = [[-100, -100, -100, -100, 6, -100, 7, -100], [-100, -100, -100, -100, 7, -100, 10, -100]]
EVALUATED = [[3, 11, 2, 8, 3, 9, 2, 7]]


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(ValueError, match=r"vocab_size 16 has 7 keys for num_pairs 8"):
        Recall(vocab_size=16, num_pairs=8)
    with pytest.raises(ArchlabError, match=r"8 pairs and their queries need 32 tokens, more than train\.context 31"):
        Recall().check(31)
    with pytest.raises(ArchlabError, match=r"no split 'valid'; did you mean 'validation'\?"):
        small().batch("valid", 0, 1, 64, 0)
    Recall().check(32)
