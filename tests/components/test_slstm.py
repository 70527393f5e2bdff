"""The sLSTM mixer against the paper's equations, channel by channel and token by token, without the stabilizer."""

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients
from torch.nn import functional as F

from archlab.components.ema.short_conv import ShortConvolution
from archlab.components.mixer.slstm import SLSTM

HEADS, WIDTH = 3, 5
DIM = HEADS * WIDTH


def build(dtype=torch.float64, **knobs):
    torch.manual_seed(0)
    layer = SLSTM(DIM, num_heads=HEADS, ema=lambda dim: ShortConvolution(dim, kernel_size=3), **knobs)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer.to(dtype)


def inputs(num_tokens):
    torch.manual_seed(1)
    return torch.randn(2, num_tokens, DIM, dtype=torch.float64, requires_grad=True)


def literal(layer, x):
    taps = layer.ema.weight
    h, c, n = (torch.zeros(2, HEADS, WIDTH, dtype=x.dtype) for _ in range(3))
    outputs = []
    for t in range(x.shape[1]):
        convolved = F.silu(sum(taps[-1 - j] * x[:, t - j] for j in range(min(len(taps), t + 1))))
        heads_x, heads_conv = (part.unflatten(-1, (HEADS, WIDTH)) for part in (x[:, t], convolved))
        raw = []
        parts = (layer.input_gate, layer.forget_gate, layer.cell_input, layer.output_gate)
        for g, (part, read) in enumerate(zip(parts, (heads_conv, heads_conv, heads_x, heads_x), strict=True)):
            products = [read[:, k] @ part.weight[k] + h[:, k] @ layer.recurrent[g, k] for k in range(HEADS)]
            raw.append(torch.stack(products, 1) + (0 if part.bias is None else part.bias))
        i, f, z, o = raw
        f = f.exp() if layer.forget_gate_function == "exponential" else f.sigmoid()
        c, n = f * c + i.exp() * z.tanh(), f * n + i.exp()
        h = o.sigmoid() * c / n
        mean, var = h.mean(-1, keepdim=True), h.var(-1, correction=0, keepdim=True)
        outputs.append(((h - mean) / (var + 1e-5).sqrt()).flatten(1) * layer.norm.weight)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("forget_gate", ["sigmoid", "exponential"])
@pytest.mark.parametrize("num_tokens", [1, 2, 19])
def test_agrees_with_its_equations(num_tokens, forget_gate):
    layer, x = build(forget_gate=forget_gate), inputs(num_tokens)
    assert_same_gradients(layer(x)[0], literal(layer, x), [x, *layer.parameters()][: None if num_tokens > 1 else 1])


def test_streams():
    assert_one_stream(build(), inputs(23).detach())


def test_heads_do_not_read_each_other():
    layer, x = build(), inputs(9).detach()
    changed = x.clone()
    changed[..., :WIDTH] += 1
    y, other = layer(x)[0], layer(changed)[0]
    torch.testing.assert_close(y[..., WIDTH:], other[..., WIDTH:])
    assert not torch.isclose(y[..., :WIDTH], other[..., :WIDTH]).any(-1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cells_stay_wide_under_autocast(dtype):
    with torch.autocast("cpu", torch.bfloat16):
        y, state = build(torch.float32)(inputs(9).to(dtype))
    assert y.dtype == dtype
    assert all(state[name].dtype == torch.float32 for name in ("h", "cell", "normalizer", "peak"))


def test_it_begins_without_recurrent_weights_and_with_long_memories():
    layer = SLSTM(DIM, num_heads=HEADS, ema=ShortConvolution)
    assert not layer.recurrent.any()
    memory = 1 / (1 - layer.forget_gate.bias[1].double().sigmoid())
    assert (memory[0].item(), memory[-1].item()) == (pytest.approx(21.1, abs=0.1), pytest.approx(404, abs=1))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="dim 16 is not divisible by num_heads 3"):
        SLSTM(16, num_heads=3, ema=ShortConvolution)
