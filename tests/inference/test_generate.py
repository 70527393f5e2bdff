"""Generation reads the prompt once, then one token a call, and samples as it was asked to."""

import math
from typing import Any

import pytest
import torch
from fake_model import Bigram
from torch import nn

from archlab import ArchlabError
from archlab.inference.generate import generate

CYCLE = torch.full((5, 5), -20.0) + 40 * torch.eye(5).roll(1, 1)


def test_greedy_follows_the_likeliest_tokens() -> None:
    model = Bigram(CYCLE)
    assert list(generate(model, [3, 1], max_new_tokens=6, temperature=0)) == [2, 3, 4, 0, 1, 2]
    assert model.calls == [2, 1, 1, 1, 1, 1]


def test_a_long_prompt_is_read_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archlab.inference.token_stream.CHUNK", 3)
    model = Bigram(CYCLE)
    assert list(generate(model, [3, 1, 0, 4, 2, 1, 2], max_new_tokens=2, temperature=0)) == [3, 4]
    assert model.calls == [3, 3, 1, 1]


def test_the_head_reads_the_last_token_of_a_prompt_alone() -> None:
    model = Bigram(CYCLE)
    model.features = lambda tokens, state: (model.table[tokens], state or {})  # type: ignore[assignment]
    model.head = nn.Identity()
    widths: list[int] = []
    model.head.register_forward_hook(lambda _, inputs, output: widths.append(inputs[0].shape[1]))
    assert list(generate(model, [3, 1, 0], max_new_tokens=2, temperature=0)) == [1, 2]
    assert widths == [1, 1]


def test_nothing_is_computed_for_no_tokens() -> None:
    model = Bigram(CYCLE)
    assert list(generate(model, [3], max_new_tokens=0)) == []
    assert model.calls == []


def test_a_seed_repeats_its_tokens_whatever_else_draws() -> None:
    model = Bigram(torch.zeros(50, 50))
    first = list(generate(model, [0], max_new_tokens=30, seed=1))
    torch.rand(7)
    before = torch.get_rng_state()
    assert list(generate(model, [0], max_new_tokens=30, seed=1)) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert list(generate(model, [0], max_new_tokens=30, seed=2)) != first


def test_inference_mode_and_evaluation_do_not_leak_to_the_caller() -> None:
    model = Bigram(CYCLE).train()
    tokens = generate(model, [3], max_new_tokens=5, temperature=0)
    next(tokens)
    assert not torch.is_inference_mode_enabled()
    tokens.close()  # type: ignore[attr-defined]
    assert model.training


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tokens": []}, "the prompt is empty"),
        ({"temperature": -0.1}, "temperature -0.1 is not a number at least 0"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"temperature": math.inf}, "temperature inf"),
        ({"top_k": 0}, "top_k 0 is below 1"),
        ({"top_p": 0.0}, "top_p 0.0 is not above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p 1.1"),
        ({"top_p": math.nan}, "top_p nan"),
        ({"max_new_tokens": -1}, "max_new_tokens -1 is below 0"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_at_once(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ArchlabError, match=words):
        generate(Bigram(CYCLE), **({"tokens": [1], "max_new_tokens": 3} | settings))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_damaged_weights_are_explained(temperature: float) -> None:
    with pytest.raises(ArchlabError, match="not a finite number"):
        list(generate(Bigram(CYCLE * math.nan), [1], max_new_tokens=3, temperature=temperature))
