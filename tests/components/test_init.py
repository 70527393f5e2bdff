import pytest
import torch

from archlab.components._init import init_tokens_, linear, truncated_normal_


@pytest.mark.parametrize(
    ("init", "std", "most"),
    [
        ("he", (3 * 300) ** -0.5, None),
        ("xavier", (2 / (300 + 500)) ** 0.5, (6 / (300 + 500)) ** 0.5),
        ("normal", 0.02, None),
    ],
)
def test_linear_begins_as_named(init, std, most):
    torch.manual_seed(0)
    layer = linear(300, 500, bias=True, init=init)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    assert abs(layer.weight.mean().item()) < 0.02 * std
    assert most is None or 0.99 * most < layer.weight.abs().max().item() <= most
    assert not layer.bias.any()


def test_linear_can_be_built_without_memory_and_filled_later():
    with torch.device("meta"):
        layer = linear(30, 50, bias=True, init="normal")
    layer.to_empty(device="cpu").reset_parameters()
    assert 0.015 < layer.weight.std().item() < 0.025
    assert not layer.bias.any()


def test_truncated_normal_is_cut_in_its_own_unit():
    torch.manual_seed(0)
    x = truncated_normal_(torch.empty(100_000), std=0.25, cut=0.5)
    assert 0.49 < x.abs().max().item() <= 0.5
    assert x.std().item() == pytest.approx(0.25 * 0.8796, rel=0.01)  # of a normal cut at two deviations


@pytest.mark.parametrize(("init", "std", "most"), [("truncated", 0.9866 / 8, 3 / 8), ("normal", 0.02, 0.2)])
def test_token_vectors(init, std, most):
    torch.manual_seed(0)
    x = init_tokens_(torch.empty(2000, 64), init)
    assert x.std().item() == pytest.approx(std, rel=0.01)
    assert 2.9 * std < x.abs().max().item() <= most
