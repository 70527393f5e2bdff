import pytest
import torch

from archlab.config.registry import find


class Doubled:
    """A branch whose norm and body differ."""

    def __init__(self, factor):
        self.factor = factor

    def norm(self, h):
        return h - 1

    def body(self, h):
        return self.factor * h * h

    def __call__(self, h):
        return self.body(self.norm(h))


MIXER, FFN = Doubled(2.0), Doubled(3.0)
X = torch.tensor([[[0.5, 2.0, -1.0]]], dtype=torch.float64)


def build(name, layer_index=0, **knobs):
    torch.manual_seed(0)
    return find("residual", name).cls(3, layer_index, **knobs).double()


def mixer(h):
    return 2 * (h - 1) ** 2


def ffn(h):
    return 3 * (h - 1) ** 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pre_norm", lambda x: x + mixer(x) + ffn(x + mixer(x))),
        ("two_hop", lambda x: x + ffn(x + mixer(x))),
        ("parallel", lambda x: x + mixer(x) + ffn(x)),
        ("post_norm", lambda x: (y := x + 2 * x**2 - 1) + 3 * y**2 - 1),
    ],
)
def test_sums(name, expected):
    torch.testing.assert_close(build(name)(X, MIXER, FFN), expected(X))


@pytest.mark.parametrize("layer_index", [0, 3])
def test_two_hop_rescales_the_ffn_alone(layer_index):
    layer = build("two_hop", layer_index, rescale=True)
    assert torch.equal(layer.scale.detach(), torch.full((3,), 0.1 * 0.5**layer_index).double())
    torch.testing.assert_close(layer(X, MIXER, FFN), X + layer.scale * ffn(X + mixer(X)))


def test_gates_move_from_input_to_branch():
    layer = build("gated", share=0.25)
    y = X.clone()
    for gate, branch in ((layer.mixer_gate, mixer), (layer.ffn_gate, ffn)):
        g = 1 / (1 + 3 * torch.exp(-(y @ gate.weight.T + gate.bias)))
        y = g * branch(y) + (1 - g) * y
    torch.testing.assert_close(layer(X, MIXER, FFN), y)


def test_gates_begin_open_by_the_share():
    layer = build("gated", share=0.25)
    y = layer(torch.zeros(1, 1, 3).double(), lambda h: h + 8, lambda h: h)
    torch.testing.assert_close(y, torch.full((1, 1, 3), 2.0).double())


@pytest.mark.parametrize("share", [0, 1.0])
def test_a_gate_must_be_able_to_learn(share):
    with pytest.raises(ValueError, match="is not between 0 and 1"):
        build("gated", share=share)


def test_only_gates_and_scales_are_learned():
    learned = {name: len(list(build(name).parameters())) for name in ("pre_norm", "post_norm", "two_hop", "parallel")}
    assert set(learned.values()) == {0}
