import copy

import pytest
import torch
from torch import nn

from archlab.components.embedding.tokens import TokenEmbedding
from archlab.components.head.language_model import LanguageModelHead
from archlab.config.experiment import load
from archlab.errors import ConfigError
from archlab.modeling.build import build_on_meta


class Ends(nn.Module):
    def __init__(self, **knobs):
        super().__init__()
        self.embedding = TokenEmbedding(7, 4)
        self.head = LanguageModelHead(4, 7, self.embedding, **knobs)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


TOKENS = torch.tensor([[0, 6, 3], [2, 2, 5]])


def test_embedding_looks_up_and_scales():
    plain, scaled = TokenEmbedding(7, 16), TokenEmbedding(7, 16, scale=True)
    assert torch.equal(plain(TOKENS), plain.weight[TOKENS])
    assert torch.equal(scaled(TOKENS), 4 * scaled.weight[TOKENS])
    other = TokenEmbedding(7, 16, factor=0.5)
    assert torch.equal(other(TOKENS), other.weight[TOKENS] / 2)
    with pytest.raises(ValueError, match=r"scale multiplies by sqrt\(dim\), and factor by 0.5: leave one out"):
        TokenEmbedding(7, 16, scale=True, factor=0.5)


def test_embedding_dropout_only_in_training():
    layer = TokenEmbedding(7, 16, dropout=0.5)
    assert (layer(TOKENS) == 0).any()
    assert torch.equal(layer.eval()(TOKENS), layer.weight[TOKENS])


def test_head_scores_by_its_own_matrix():
    model = Ends(num_outputs=5).double()
    logits = model(TOKENS)
    assert logits.shape == (2, 3, 5)
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, model.embedding.weight[TOKENS] @ model.head.weight.T)
    assert sorted(model.state_dict()) == ["embedding.weight", "head.weight"]


def test_a_cap_bounds_the_logits():
    model = Ends(tied=True, soft_cap=0.5).double()
    torch.nn.init.normal_(model.embedding.weight)
    products = model.embedding.weight[TOKENS] @ model.embedding.weight.T
    torch.testing.assert_close(model(TOKENS), 0.5 * (products / 0.5).tanh())
    assert products.abs().max() > 2


def test_logits_are_at_least_float32():
    assert Ends().bfloat16()(TOKENS).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert Ends()(TOKENS).dtype == torch.float32


def test_a_tied_matrix_has_one_owner():
    model = Ends(tied=True)
    assert list(model.state_dict()) == ["embedding.weight"]
    weight = model.embedding.weight
    torch.testing.assert_close(model(TOKENS), weight[TOKENS] @ weight.T)
    twin = copy.deepcopy(model)
    nn.init.zeros_(twin.embedding.weight)
    assert not twin(TOKENS).any()
    assert model(TOKENS).any()


def test_a_tie_outlives_materialising():
    with torch.device("meta"):
        model = Ends(tied=True)
    model.to_empty(device="cpu")
    nn.init.ones_(model.embedding.weight)
    assert torch.equal(model(TOKENS), torch.full((2, 3, 7), 4.0))


def test_a_tied_head_has_the_vocabularys_outputs():
    Ends(tied=True, num_outputs=7)
    with pytest.raises(ValueError, match="vocab_size 7 outputs, not num_outputs 5"):
        Ends(tied=True, num_outputs=5)


@pytest.mark.parametrize(
    ("part", "name", "problem"),
    [
        ("embedding", "tokens", "tokens need a vocab_size, the number of different tokens"),
        ("embedding", "adaptive", "tokens need a vocab_size, the number of different tokens"),
        ("embedding", "factored", "tokens need a vocab_size, the number of different tokens"),
        ("head", "language_model", "needs num_outputs, or a model with a vocab_size"),
        ("head", "factored", "needs a model with a vocab_size"),
    ],
)
def test_tokens_of_no_vocabulary_are_refused(part, name, problem):
    knobs = ", cutoffs: [4]" if name == "adaptive" else ""
    others = ["model.vocab_size=null", "model.embedding=frames"]
    with pytest.raises(ConfigError) as error:
        build_on_meta(load("llama2_tiny", [*others, f"model.{part}={{type: {name}{knobs}}}"]).model)
    assert str(error.value) == f"model.{part}: {name}: {problem}"
