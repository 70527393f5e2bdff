"""The reconstruction head decodes the token at every position from the last position."""

import pytest
import torch
from torch.nn import functional as F

from archlab.components.head.reconstruction import ReconstructionHead
from archlab.config.spec import parse
from archlab.modeling.backbone import is_causal
from archlab.modeling.build import build


def head(dim=8, vocab_size=5, **knobs):
    torch.manual_seed(0)
    made = ReconstructionHead(dim, vocab_size, torch.nn.Identity(), **knobs).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def test_it_is_an_mlp_of_the_last_position_and_the_place():
    layer, x = head(base=100.0), torch.randn(3, 7, 8, dtype=torch.float64)
    found = layer(x)
    assert found.shape == (3, 7, 5)
    for place in range(7):
        waves = torch.tensor([place / 100 ** (pair / 4) for pair in range(4)], dtype=torch.float64)
        h = x[:, -1] + torch.cat((waves.sin(), waves.cos()))
        for norm, linear in zip(layer.norms, layer.layers, strict=False):
            h = F.gelu(F.layer_norm(h, (8,), norm.weight, norm.bias, norm.eps) @ linear.weight.T + linear.bias)
        norm = layer.norms[2]
        expected = F.layer_norm(h, (8,), norm.weight, norm.bias, norm.eps) @ layer.weight.T + layer.bias
        torch.testing.assert_close(found[:, place], expected, rtol=1e-5, atol=1e-5)


def test_only_the_last_position_is_seen():
    layer, x = head(), torch.randn(2, 4, 8, dtype=torch.float64)
    other = torch.cat((torch.randn(2, 3, 8, dtype=torch.float64), x[:, -1:]), 1)
    assert torch.equal(layer(x), layer(other))


def test_a_model_with_it_looks_ahead():
    tree = {"type": "stack", "vocab_size": 5, "dim": 8, "layers": [{"mixer": "attention"}], "head": "reconstruction"}
    model = build(parse(tree, "backbone", "model"))
    assert not is_causal(model)
    assert (model.num_outputs, model.per_sample) == (5, False)


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ValueError, match="tokens need a vocab_size"):
        head(vocab_size=None)
    with pytest.raises(ValueError, match="dim 7 is odd"):
        head(dim=7)
