"""Text ends at a stop text however it is cut into tokens, and is given out as soon as it is certain."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from archlab import ArchlabError, GeneratedToken
from archlab.components.task.no_data import NoData, refuse_data
from archlab.data.task import Task
from archlab.inference.text_output import TextOutput

FLAT = torch.zeros(256)


class Pieces(Task):
    """Tokens that are texts by themselves."""

    batch = refuse_data
    eval_batches = refuse_data

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        return (self.pieces[token] for token in tokens)


def run(task: Task, tokens: Iterable[int], stop: Sequence[str] = ()) -> tuple[list[list[GeneratedToken]], TextOutput]:
    output, given = TextOutput(task, (), stop), []
    for token in tokens:
        given.append(output.add(token, FLAT))
        if output.found is not None:
            break
    return [*given, output.finish()], output


def text_of(given: list[list[GeneratedToken]]) -> str:
    return "".join(token.text for tokens in given for token in tokens)


@pytest.mark.parametrize(
    ("pieces", "stop", "text", "found"),
    [
        (["ab", "cd", "ef"], ["cd"], "ab", "cd"),
        (["ab", "cd", "ef"], ["bcde"], "a", "bcde"),
        (["ab", "cd", "ef"], ["bcdx"], "abcdef", None),
        (["ab", "cd", "ef"], ["abcdefg"], "abcdef", None),
        (["aab"], ["ab"], "a", "ab"),
        (["a", "a", "a", "b"], ["aab"], "a", "aab"),
        (["xabc"], ["ab", "xabc"], "x", "ab"),
        (["x", "a", "b", "c"], ["ab", "xabc"], "x", "ab"),
        (["abc"], ["bc", "abc"], "", "abc"),
        (["ab", "c"], ["c", "b"], "a", "b"),
        (["€", "\n", "\n", "z"], ["\n\n"], "€", "\n\n"),
    ],
)
def test_stop_texts(pieces: list[str], stop: list[str], text: str, found: str | None) -> None:
    given, output = run(Pieces(pieces), range(len(pieces)), stop)
    assert (text_of(given), output.found) == (text, found)


def test_the_cut_into_tokens_does_not_matter() -> None:
    chance = random.Random(0)
    for _ in range(300):
        text = "".join(chance.choices("ab", k=12))
        stop = ["".join(chance.choices("ab", k=chance.randint(2, 5))) for _ in range(2)]
        places = sorted(chance.sample(range(1, 12), 4))
        pieces = [text[i:j] for i, j in zip([0, *places], [*places, 12], strict=True)]
        ends = [(text.find(each) + len(each), text.find(each)) for each in stop if each in text]
        for cut in (pieces, list(text), [text]):
            given, _ = run(Pieces(cut), range(len(cut)), stop)
            assert text_of(given) == (text[: min(ends)[1]] if ends else text), (cut, stop)


def test_text_is_given_out_as_soon_as_it_is_certain() -> None:
    pieces = ["a", "b", "<", "x", "<", "/"]
    given, _ = run(Pieces(pieces), range(6), ["</s>"])
    assert [[token.text for token in tokens] for tokens in given] == [
        ["a"],
        ["b"],
        [],
        ["<", "x"],
        [],
        [],
        ["<", "/"],
    ]


def test_tokens_of_one_character_are_given_out_together_and_a_broken_one_at_the_end() -> None:
    tokens = [*"a€".encode(), 0xE2, 0x82]
    given, _ = run(NoData(vocab_size=256, tokenizer="bytes"), tokens)
    assert [[token.text for token in each] for each in given] == [["a"], [], [], ["", "", "€"], [], [], ["", "\ufffd"]]
    assert [token.token for each in given for token in each] == tokens


def test_tokens_without_a_text_are_not_held_for_ever() -> None:
    given, output = run(Pieces([""]), [0] * 500)
    assert len(output.held) == 0
    assert len([token for tokens in given for token in tokens]) == 500
    output = TextOutput(Pieces([""]), ())
    for _ in range(500):
        output.add(0, FLAT)
    assert len(output.held) == 16


def test_probabilities_are_the_model_s_own() -> None:
    logits_V: Tensor = torch.tensor([1.0, 2.0, 3.0, -math.inf])
    output = TextOutput(Pieces(["a", "b", "c", "d"]), (), (), 9)
    (token,) = output.add(1, logits_V)
    total = sum(map(math.exp, (1, 2, 3)))
    assert token.logprob == pytest.approx(2 - math.log(total))
    assert [(best.token, best.text) for best in token.best] == [(2, "c"), (1, "b"), (0, "a")]
    assert token.best[0].logprob == pytest.approx(3 - math.log(total))


def test_a_task_that_loses_count_is_named() -> None:
    class Sparse(Pieces):
        def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
            return (self.pieces[token] for token in tokens if token)

    with pytest.raises(ArchlabError, match="the task Sparse: its decode_continuation yields not one text for each"):
        run(Sparse(["a", "b"]), [0, 1])
