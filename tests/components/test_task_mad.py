"""The tasks of MAD: targets follow from the inputs, by rules written for the tests."""

import pytest
import torch

from archlab import ArchlabError
from archlab.components.task.compression import Compression
from archlab.components.task.fuzzy_recall import FuzzyRecall
from archlab.components.task.in_context_recall import InContextRecall
from archlab.components.task.memorization import Memorization
from archlab.components.task.noisy_recall import NoisyRecall
from archlab.components.task.selective_copying import SelectiveCopying

SPLITS = pytest.mark.parametrize("split", ["train", "validation", "test"])


def samples(task, split, context, count=40):
    inputs, targets = task.batch(split, 0, count, context, 0)
    return zip(inputs.tolist(), targets.tolist(), strict=True)


@SPLITS
@pytest.mark.parametrize("context", [3, 4, 31, 32])
@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_values_of_repeated_keys_are_asked_for(split, context, noise):
    task = NoisyRecall(vocab_size=40, noise_vocab_size=10, noise=noise, learn="answers")
    for tokens, asked in samples(task, split, context):
        known, expected = {}, []
        for place, token in enumerate(tokens):
            is_key = place % 2 == 0 and token < 15
            if place % 2 == 1 and tokens[place - 1] < 15:
                assert 15 <= token < 30
                assert known.setdefault(tokens[place - 1], token) == token
            assert (place % 2 == 0 and is_key) or 15 <= token < 40
            expected.append(known.get(token, -100) if is_key else -100)
        if asked[-1] != expected[-1]:  # the answer to the last input is not among the inputs
            assert context % 2 == 1
            assert expected.pop() == -100
        assert asked[: len(expected)] == expected
        assert max(asked) >= 0


@SPLITS
@pytest.mark.parametrize(("vocab", "context"), [(16, 32), (3, 4), (7, 14)])
def test_one_query_asks_for_the_last_pair(split, vocab, context):
    task = InContextRecall(vocab_size=vocab, multi_query=False, learn="answers", eval_size=4, train_size=None)
    keys = (vocab - 1) // 2
    if vocab == 3:
        with pytest.raises(ArchlabError, match="too few different samples"):
            task.check(context)
        return
    for tokens, asked in samples(task, split, context):
        assert tokens[-2] == vocab - 1
        known = dict(zip(tokens[:-2:2], tokens[1:-2:2], strict=True))
        assert asked == [-100] * (context - 1) + [known[tokens[-1]]]
        assert all(key < keys <= value < vocab - 1 for key, value in known.items())


@pytest.mark.parametrize("name", [InContextRecall, NoisyRecall, FuzzyRecall])
def test_training_may_learn_every_token(name):
    inputs, targets = name().batch("train", 0, 8, 64, 0)
    assert torch.equal(targets[:, :-1], inputs[:, 1:])
    assert (targets[:, -1] >= 0).all()
    answers = name(learn="answers").batch("train", 0, 8, 64, 0)
    assert torch.equal(answers[0], inputs)
    asked = answers[1] != -100
    assert torch.equal(answers[1][asked], targets[asked])
    assert 0 < asked.float().mean() < 0.6
    assert (name().batch("validation", 0, 8, 64, 0)[1] == -100).any()
    assert name().predicts_next


def test_the_share_of_noise_is_the_one_said():
    inputs, _ = NoisyRecall(noise=0.3, train_size=None).batch("train", 0, 500, 128, 0)
    assert abs(float((inputs >= 16).float().mean()) - 0.3 * 62 / 64) < 0.01


@SPLITS
@pytest.mark.parametrize("multi_query", [True, False])
def test_fuzzy_keys_and_values_are_runs_of_different_tokens(split, multi_query):
    task = FuzzyRecall(vocab_size=12, key_tokens=3, value_tokens=2, multi_query=multi_query, learn="answers")
    padding, half = (11, 5) if multi_query else (10, 5)
    repeats = 0
    for tokens, asked in samples(task, split, 41):
        begin = next(place for place, token in enumerate(tokens) if token != padding)
        text, wanted = tokens[begin:], asked[begin:]
        assert set(asked[: max(begin - 1, 0)]) <= {-100}
        pairs, order = parse(text, wanted, half, padding)
        known = {}
        for number, (key, value, answers) in enumerate(pairs):
            last = number == len(pairs) - 1
            assert len(set(key)) == len(key) <= 3
            assert len(set(value)) == len(value) <= 2
            assert split == "train" or len(key) == 3
            seen = key in known
            repeats += seen
            if seen and not last:
                assert known[key] == value
            assert answers == (list(value) if (seen and multi_query) or last else [-100] * len(value))
            if last:
                assert known[key][: len(value)] == value
            known[key] = value
        assert order == (not multi_query)
    assert repeats > 40


def parse(text, wanted, half, padding):
    """Return key, value and answers of each pair, the last completed by its target, and whether there is a query."""
    text, order = [*text, wanted[-1]], padding + 1 in text
    places = [place for place, token in enumerate(text) if token != padding + 1]
    pairs, key, value, answers = [], (), (), []
    for place in places:
        if text[place] < half:
            if value:
                pairs.append((key, value, answers))
                key, value, answers = (), (), []
            key += (text[place],)
        else:
            value += (text[place],)
            answers.append(wanted[place - 1])
    return [*pairs, (key, value, answers)], order


@SPLITS
def test_copies_are_the_tokens_in_order(split):
    task = SelectiveCopying(vocab_size=9, num_tokens=5)
    for tokens, asked in samples(task, split, 30):
        assert tokens[24:] == [8] + [7] * 5
        content = [token for token in tokens[:24] if token != 7]
        assert len(content) == 5
        assert max(content) < 7
        assert asked == [-100] * 25 + content


def test_all_positions_of_tokens_are_equally_likely():
    inputs, _ = SelectiveCopying(num_tokens=4, train_size=None).batch("train", 0, 3000, 20, 0)
    share = (inputs[:, :15] < 14).float().mean(0)
    torch.testing.assert_close(share, torch.full((15,), 4 / 15), atol=0.03, rtol=0)


def test_a_key_has_one_value_everywhere():
    task, known = Memorization(vocab_size=22, data_seed=5), {}
    for split in ("train", "validation", "test"):
        for tokens, asked in samples(task, split, 16):
            assert tokens[1::2] == [21] * 8
            assert set(asked[::2]) == {-100}
            for key, value in zip(tokens[::2], asked[1::2], strict=True):
                assert key < 10 <= value < 21
                assert known.setdefault(key, value) == value
    assert len(known) == len(set(known.values())) == 10
    other = Memorization(vocab_size=22, data_seed=6)
    assert any(asked[1::2] != [known[key] for key in tokens[::2]] for tokens, asked in samples(other, "train", 16))


@SPLITS
def test_everything_compressed_is_asked_for(split):
    for tokens, asked in samples(Compression(vocab_size=8), split, 12):
        assert tokens[-1] == 7
        assert max(tokens[:-1]) < 7
        assert asked == [*tokens[:-1], -100]


@pytest.mark.parametrize(
    ("task", "knobs", "message"),
    [
        (InContextRecall, {"vocab_size": 1}, "vocab_size 1 leaves 1 tokens for keys and values, which need 2"),
        (NoisyRecall, {"vocab_size": 16}, "vocab_size 16 leaves 0 tokens for keys and values"),
        (FuzzyRecall, {"vocab_size": 6}, "vocab_size 6 has 2 and 3 tokens for key_tokens 3, value_tokens 3"),
        (SelectiveCopying, {"vocab_size": 2}, "vocab_size 2 leaves no token to copy"),
        (Memorization, {"vocab_size": 2}, "vocab_size 2 has no key"),
        (Compression, {"vocab_size": 1}, "vocab_size 1 has no token"),
    ],
)
def test_vocabularies_that_are_too_small_are_refused(task, knobs, message):
    with pytest.raises(ValueError, match=message):
        task(**knobs)


@pytest.mark.parametrize(
    ("task", "context", "message"),
    [
        (InContextRecall(), 2, "in_context_recall: two pairs need 3 inputs, not train.context 2"),
        (InContextRecall(multi_query=False), 7, "in_context_recall: train.context 7 is odd: one query needs whole"),
        (FuzzyRecall(), 10, "fuzzy_recall: two pairs need 11 inputs, more than train.context 10"),
        (SelectiveCopying(), 32, "16 tokens, the copy token and their copies need 33 inputs, more than"),
        (Memorization(), 5, "memorization: train.context 5 is odd"),
        (Compression(), 1, "a token and the query token need 2 inputs, not train.context 1"),
    ],
)
def test_contexts_that_are_too_short_are_refused(task, context, message):
    with pytest.raises(ArchlabError, match=message):
        task.batch("train", 0, 1, context, 0)
    task.check(context + 1)
