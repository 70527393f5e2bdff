"""A conversation is one text: its answers are those of a stream that reads all of it, and cost their own tokens."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from conftest import Tiny

from archlab import ArchlabError
from archlab.inference.conversation import Conversation
from archlab.inference.prompts import Settings
from archlab.inference.text_model import TextModel
from archlab.modeling.build import build

GREEDY = Settings(max_new_tokens=6, temperature=0.0)


@pytest.fixture
def model(tiny: Tiny) -> TextModel:
    experiment = tiny()
    return TextModel(experiment, build(experiment.model).eval())


def answer(conversation: Conversation, text: str) -> list[int]:
    # Of bytes that are not text the last may be yielded twice: its character is known to be broken at the end alone.
    tokens = [token.token for token in conversation.answer(text)]
    return tokens[: conversation.settings.max_new_tokens]


def answer_to(model: TextModel, said: list[int]) -> list[int]:
    """Return the most likely answer to all that was said, read at once."""
    text = list(said)
    for _ in range(GREEDY.max_new_tokens):
        with torch.no_grad():
            logits, _ = model.model(torch.tensor([text]))
        text.append(int(logits[0, -1].argmax()))
    return text[len(said) :]


@pytest.mark.slow
def test_turns_are_one_text(model: TextModel) -> None:
    conversation, said = Conversation(model, GREEDY), list[int]()
    for text in ("one", "two", "three"):
        said += list(text.encode())
        given = answer(conversation, text)
        assert len(given) == 6
        assert given == answer_to(model, said)
        said += given
        assert conversation.num_tokens == len(said)


def test_an_answer_that_is_ended_is_gone_on_from(model: TextModel) -> None:
    conversation = Conversation(model, GREEDY)
    tokens = conversation.answer("one")
    given = [token.token for token in islice(tokens, 3)]
    tokens.close()
    assert conversation.num_tokens == 3 + 3
    assert answer(conversation, "two") == answer_to(model, [*b"one", *given, *b"two"])


@pytest.mark.slow
def test_random_numbers_go_on_and_begin_anew(model: TextModel) -> None:
    conversation = Conversation(model, Settings(max_new_tokens=20, seed=3))
    first, second = answer(conversation, "x"), answer(conversation, "x")
    assert first != second
    conversation.restart()
    assert conversation.num_tokens == 0
    assert answer(conversation, "x") == first


def test_what_cannot_be_said_leaves_the_conversation_as_it_is(tiny: Tiny) -> None:
    layer = {"mixer": {"type": "attention", "num_heads": 2, "attention": {"type": "softmax", "window_size": 12}}}
    experiment = tiny("train.context=8", f"model.layers=[{layer}]")
    conversation = Conversation(TextModel(experiment, build(experiment.model).eval()), GREEDY)
    answer(conversation, "ab")
    with pytest.raises(ArchlabError, match="more than the 12 that the model's full attention keeps"):
        conversation.answer("c")
    assert conversation.num_tokens == 8
