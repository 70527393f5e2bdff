"""A decoder gives what the model gives, token by token, from a state of its own."""

import pytest
import torch
from conftest import needs_compiler
from torch import Tensor, nn
from torch.nn import functional

from archlab import State
from archlab.config.experiment import load
from archlab.inference.decoder import Decoder, SingleTokenMode
from archlab.inference.generate import generate
from archlab.modeling.build import build

SMALL = ("model.dim=24", "model.layers[0].repeat=1", "model.vocab_size=40")
WINDOW = 5
MODELS = {
    "megalodon_tiny": (
        "model.layers[0].mixer.num_heads=2",
        "model.layers[0].mixer.shared_dim=12",
        "model.layers[0].mixer.value_dim=20",
        "model.layers[0].norm.num_groups=3",
        "model.norm.num_groups=3",
        f"model.layers[0].mixer.attention.window_size={WINDOW}",
    ),
    "mistral_tiny": (
        "model.layers[0].mixer.num_heads=2",
        "model.layers[0].mixer.num_kv_heads=1",
        f"model.layers[0].mixer.attention.window_size={WINDOW}",
    ),
    "mixtral_tiny": (
        "model.layers[0].mixer.num_heads=2",
        "model.layers[0].mixer.num_kv_heads=1",
        "model.layers[0].ffn.hidden_dim=20",
    ),
}


def small(name: str) -> nn.Module:
    return build(load(name, [*SMALL, *MODELS[name]]).model).eval()


@torch.no_grad()
def after_a_prompt(model: nn.Module, tokens_BT: Tensor, prompt: int) -> tuple[State, list[Tensor]]:
    """Return the state after the prompt, and the scores of each further token in a call of its own."""
    _, start = model(tokens_BT[:, :prompt])
    scores, state = [], start
    for token_B1 in tokens_BT[:, prompt:].split(1, 1):
        y_B1V, state = model(token_B1, state)
        scores.append(y_B1V)
    return start, scores


@pytest.mark.services
@needs_compiler
def test_a_decoder_and_a_text_are_those_of_the_model() -> None:
    check_decoder("mistral_tiny", 1)
    # The same library serves both.
    model = small("mistral_tiny")
    texts = [list(generate(model, [3, 1, 4], max_new_tokens=12, seed=2, compile=how)) for how in (False, True)]
    assert texts[0] == texts[1]


@pytest.mark.services
@needs_compiler
def test_decoders_of_all_kinds_give_what_their_models_give() -> None:
    check_decoder("megalodon_tiny", 1)
    check_decoder("mistral_tiny", 2)
    # Two rows of two experts read the matrices of these, and five rows those of all.
    check_decoder("mixtral_tiny", 2)
    check_decoder("mixtral_tiny", 5)
    model, tokens_BT = small("mistral_tiny"), torch.tensor([[1, 7], [3, 2]])
    start, (expected_B1V,) = after_a_prompt(model, tokens_BT, 1)
    # Room for this stream alone, and not for whole windows.
    room = Decoder(model, start, WINDOW - 1)
    torch.testing.assert_close(room(tokens_BT[:, 1:]), expected_B1V, rtol=1e-4, atol=1e-5)


def check_decoder(name: str, batch_size: int) -> None:
    """Compare a decoder with its model, token by token."""
    model, tokens_BT = small(name), torch.randint(40, (batch_size, 3 * WINDOW + 1))
    start, expected = after_a_prompt(model, tokens_BT, 3)
    before = {name: tensor.clone() for name, tensor in start.items()}
    decoder = Decoder(model, start)
    scores = [decoder(token_B1) for token_B1 in tokens_BT[:, 3:].split(1, 1)]  # kept: no call writes over another's
    for given, y_B1V in zip(scores, expected, strict=True):
        torch.testing.assert_close(given, y_B1V, rtol=1e-4, atol=1e-5)
    for name, tensor in start.items():
        assert torch.equal(tensor, before[name])


def test_a_decoder_reserves_the_room_that_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("mistral_tiny")
    rooms: list[int | None] = []
    init = Decoder.__init__
    monkeypatch.setattr(Decoder, "__init__", lambda self, *args: rooms.append(args[2]) or init(self, *args))
    monkeypatch.setattr(Decoder, "__call__", lambda self, tokens: model(tokens, self.state)[0])
    assert len(list(generate(model, [3, 1, 4], max_new_tokens=6, compile=True))) == 6
    assert rooms == [16]
    assert Decoder(model, model.init_state(1), None).state["blocks.0.mixer.attention.keys"].shape[1] == WINDOW
    assert Decoder(model, model.init_state(1), 3).state["blocks.0.mixer.attention.keys"].shape[1] == 3


@pytest.mark.parametrize("keys", [1, 13, 48])
@pytest.mark.parametrize("kind", ["bool", "bias", "one for all heads", "none", "causal"])
def test_attention_of_one_query_is_pytorchs(kind: str, keys: int) -> None:
    q, k, v = (torch.randn(2, 3, n, width, dtype=torch.float64) for n, width in ((1, 5), (keys, 5), (keys, 7)))
    mask = {
        "bool": (torch.rand(2, 1, 1, keys) < 0.5).index_fill(3, torch.tensor(0), True),
        "bias": torch.randn(2, 3, 1, keys, dtype=torch.float64),
        "one for all heads": torch.randn(1, keys, dtype=torch.float64),
    }.get(kind)
    options = {"scale": 0.3, "is_causal": kind == "causal"}
    expected = functional.scaled_dot_product_attention(q, k, v, mask, **options)
    with SingleTokenMode():
        given = functional.scaled_dot_product_attention(q, k, v, mask, **options)
    torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("shape", [(5,), (1, 1, 5), (2, 1, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_of_one_row_is_pytorchs(shape: tuple[int, ...], bias: bool) -> None:
    linear, x = nn.Linear(5, 7, bias=bias, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    expected = linear(x)
    with SingleTokenMode():
        torch.testing.assert_close(linear(x), expected)


def test_a_decoder_refuses_another_shape() -> None:
    model = small("mistral_tiny")
    decoder = Decoder(model, model.init_state(2))
    with pytest.raises(ValueError, match=r"tokens \[1, 1\] are not \[2, 1\]"):
        decoder(torch.zeros(1, 1, dtype=torch.int64))
