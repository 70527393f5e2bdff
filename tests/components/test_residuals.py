import pytest
import torch

from archlab.config.registry import find
from archlab.config.spec import parse
from archlab.errors import ConfigError
from archlab.modeling.build import build as build_model
from archlab.testing import checks


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
        ("normed_skip", lambda x: (y := x - 1 + mixer(x) - 1) + ffn(y + 1)),
    ],
)
def test_sums(name, expected):
    torch.testing.assert_close(build(name)(X, MIXER, FFN), expected(X))


def test_a_normed_skip_may_weigh_more_than_its_branches():
    layer = build("normed_skip", input_factor=1.5, branch_factor=0.25)
    y = 1.5 * (X - 1) + 0.25 * mixer(X)
    torch.testing.assert_close(layer(X, MIXER, FFN), 1.5 * (y - 1) + 0.25 * ffn(y))


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


def test_layer_scale_multiplies_each_branch_by_its_vector():
    layer = build("layer_scale", start=0.25)
    assert torch.equal(layer.ffn_scale.detach(), torch.full((3,), 0.25).double())
    layer.mixer_scale.data, layer.ffn_scale.data = (torch.randn(3).double() for _ in range(2))
    expected = torch.empty_like(X)
    for d in range(3):
        y = X + layer.mixer_scale[d] * mixer(X)
        expected[..., d] = (y + layer.ffn_scale[d] * ffn(y))[..., d].detach()
    torch.testing.assert_close(layer(X, MIXER, FFN).detach(), expected)


def test_rezero_begins_as_the_identity_and_has_one_number():
    layer = build("rezero")
    assert torch.equal(layer(X, MIXER, FFN), X)
    assert [parameter.shape for parameter in layer.parameters()] == [()]
    layer.share.data.fill_(0.3)
    y = X + 0.3 * mixer(X)
    torch.testing.assert_close(layer(X, MIXER, FFN).detach(), y + 0.3 * ffn(y))


@pytest.mark.parametrize("num_layers", [1, 18])
def test_deep_norm_has_the_factors_of_a_decoder(num_layers):
    alpha, beta = (2 * num_layers) ** (1 / 4), (8 * num_layers) ** (-1 / 4)
    y = alpha * X + beta * beta * 2 * X**2 - 1
    expected = alpha * y + beta * beta * 3 * y**2 - 1
    torch.testing.assert_close(build("deep_norm", num_layers=num_layers)(X, MIXER, FFN), expected)


def rms(x, weight, eps):
    return (1 + weight) * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def norm_of(**knobs):
    return lambda dim: find("norm", "rms").cls(dim, **knobs)


def test_sandwich_normalizes_what_branches_return():
    layer = build("sandwich", mixer_norm=norm_of(eps=0.1), ffn_norm=norm_of(eps=0.2))
    layer.mixer_norm.weight.data, layer.ffn_norm.weight.data = (torch.randn(3).double() for _ in range(2))
    y = X + rms(mixer(X), layer.mixer_norm.weight, 0.1)
    found, state = layer(X, MIXER, FFN)
    torch.testing.assert_close(found, y + rms(ffn(y), layer.ffn_norm.weight, 0.2))
    assert not state


STREAMED = {"mixer_norm": {"type": "timestep", "num_groups": 4}, "ffn_norm": {"type": "timestep", "num_groups": 2}}


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        check
        for check in checks("residual", "sandwich", **STREAMED)
        if str(check) in ("chunked_equals_whole", "rows_are_independent", "compiles", "has_fixed_size_state", "exports")
    ],
    ids=str,
)
def test_a_sandwich_carries_the_state_of_its_norms(check):
    check()


def streams_by_the_paper(layer, H, branch, index):
    """Return the streams after a branch: algorithms 2 and 3 of arXiv:2409.19606, stream by stream."""
    S = len(H)
    A, B = layer.mix[index], layer.gain[index]
    rows = []
    for r in range(S):
        normed = torch.nn.functional.layer_norm(H[r], H[r].shape, layer.norms[index].weight, layer.norms[index].bias)
        a = A[r] + layer.mix_scale[index] * torch.tanh(normed @ layer.to_mix[index])
        b = B[r] + layer.gain_scale[index] * torch.tanh(normed @ layer.to_gain[index][:, 0])
        rows.append((a, b))
    h = branch(sum(a[0] * H[r] for r, (a, _) in enumerate(rows)))
    return [sum(a[1 + s] * H[r] for r, (a, _) in enumerate(rows)) + rows[s][1] * h for s in range(S)]


def test_hyper_connections_are_those_of_the_paper_vector_by_vector():
    layer = build("hyper", 1, num_streams=4)
    for parameter in layer.parameters():
        parameter.data += torch.randn(parameter.shape, dtype=torch.float64)
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64, requires_grad=True)
    expected = []
    for H in x.flatten(0, 1):
        middle = streams_by_the_paper(layer, list(H), mixer, 0)
        expected.append(torch.stack(streams_by_the_paper(layer, middle, ffn, 1)))
    expected, found = torch.stack(expected).view_as(x), layer(x, MIXER, FFN)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    leaves, slope = [x, *layer.parameters()], torch.randn_like(x)
    wanted, gradients = (torch.autograd.grad(y, leaves, slope) for y in (expected, found))
    torch.testing.assert_close(gradients, wanted, rtol=1e-10, atol=1e-10)


def test_static_hyper_connections_are_dynamic_ones_without_their_dynamic_parts():
    static, dynamic = build("hyper", 1, num_streams=3, dynamic=False), build("hyper", 1, num_streams=3)
    for parameter in static.parameters():
        parameter.data += torch.randn(parameter.shape, dtype=torch.float64)
    dynamic.load_state_dict(static.state_dict(), strict=False)
    for scale in (dynamic.mix_scale, dynamic.gain_scale):
        torch.nn.init.zeros_(scale)
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(static(x, MIXER, FFN), dynamic(x, MIXER, FFN), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("layer_index", "read"), [(0, [0, 1]), (1, [2, 0]), (2, [1, 2])])
def test_branches_begin_with_one_stream_after_the_other(layer_index, read):
    layer = build("hyper", layer_index, num_streams=3, dynamic=False)
    assert layer.mix[:, :, 0].argmax(1).tolist() == read
    assert torch.equal(layer.mix[:, :, 1:].detach(), torch.eye(3).double().expand(2, 3, 3))
    assert torch.equal(layer.gain.detach(), torch.ones(2, 3).double())


def model_of(*residuals):
    layer = {"mixer": {"type": "attention", "num_heads": 2}, "ffn": {"type": "mlp", "hidden_dim": 8}}
    layers = [layer | {"residual": residual} for residual in residuals]
    norm = {"type": "rms", "eps": 1e-12}  # so small that the sum of equal streams is normalized like one of them
    spec = parse({"type": "stack", "vocab_size": 11, "dim": 8, "layers": layers, "norm": norm}, "backbone", "model")
    return build_model(spec, "cpu", 0)


@pytest.mark.parametrize("num_streams", [1, 3])
def test_a_model_of_hyper_connections_begins_as_one_of_pre_norm(num_streams):
    tokens, hyper = torch.arange(10).view(2, 5), {"type": "hyper", "num_streams": num_streams}
    model, plain = model_of(hyper, hyper).double(), model_of("pre_norm", "pre_norm").double()
    shared = {name: tensor for name, tensor in model.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(shared)
    torch.testing.assert_close(model(tokens)[0], plain(tokens)[0], rtol=1e-9, atol=1e-9)


def test_layers_have_as_many_streams_as_the_one_before():
    with pytest.raises(ConfigError, match=r"layers of 4 streams and of one input do not follow each other"):
        model_of({"type": "hyper"}, "pre_norm")
    with pytest.raises(ConfigError, match=r"layers of 2 streams and of 4 streams do not"):
        model_of({"type": "hyper"}, {"type": "hyper", "num_streams": 2})
