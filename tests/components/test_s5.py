"""S5 against its equations with complex matrices, step by step."""

import math

import pytest
import torch
from streams import assert_one_stream, assert_same_gradients

from archlab.config.registry import find

DIM, STATES = 5, 7


def build(dim=DIM, dtype=torch.float64, **knobs):
    torch.manual_seed(0)
    layer = find("ema", "s5").cls(dim, **({"state_dim": STATES, "block_dim": 3} | knobs)).double()
    for parameter in (layer.log_step, layer.log_rate, layer.frequency):
        torch.nn.init.normal_(parameter)
    return layer.to(dtype)


def inputs(num_tokens):
    torch.manual_seed(1)
    return torch.randn(2, num_tokens, DIM, dtype=torch.float64, requires_grad=True)


def halves(matrix, dim):
    return torch.complex(*matrix.chunk(2, dim))


def s5(layer, x, h):
    """Discretize by a zero-order hold, then multiply by matrices of all states and their conjugates."""
    a = torch.complex(-layer.log_rate.exp(), layer.frequency)
    write, read = halves(layer.write.weight, 0), halves(layer.read.weight, 1)
    both = [torch.cat((part, part.conj()), axis) for part, axis in ((a, 0), (write, 0), (read, 1))]
    grown = torch.exp(both[0] * layer.log_step.exp().repeat(2))
    into = ((grown - 1) / both[0])[:, None] * both[1]
    h, outputs = torch.cat((h, h.conj()), 1), []
    for now in x.unbind(1):
        h = h @ torch.diag(grown).T + now.to(h.dtype) @ into.T
        outputs.append((h @ both[2].T).real + layer.skip * now)
    return torch.stack(outputs, 1), h[:, :STATES]


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 2, 70, 131])
def test_agrees_with_its_equations(num_tokens, carried):
    layer, x = build(), inputs(num_tokens)
    h = torch.randn(2, STATES, 2, dtype=torch.float64, requires_grad=True)
    y, last = layer(x, {"h": h} if carried else None)
    expected, state = s5(layer, x, torch.view_as_complex(h) * carried)
    ours = torch.cat((y.flatten(), last["h"].flatten()))
    theirs = torch.cat((expected.flatten(), torch.view_as_real(state).flatten()))
    assert_same_gradients(ours, theirs, [x, *layer.parameters(), *([h] if carried else [])])


def test_streams():
    assert_one_stream(build(), inputs(70).detach())


def test_one_state_alone_follows_its_differential_equation():
    layer = build(1, state_dim=1)
    a, b, step = -layer.log_rate.exp().item(), layer.frequency.item(), layer.log_step.exp().item()
    re, im = layer.write.weight.flatten().tolist()
    flow = torch.tensor([[a, -b, re], [b, a, im], [0, 0, 0]], dtype=torch.float64).mul(step).matrix_exp()
    z, x = torch.zeros(2, dtype=torch.float64), torch.randn(1, 9, 1, dtype=torch.float64)
    read, expected = layer.read.weight.detach().flatten(), []
    for now in x[0, :, 0]:
        z = (flow @ torch.stack((z[0], z[1], now)))[:2]
        expected.append(2 * (read[0] * z[0] - read[1] * z[1]) + layer.skip.item() * now)
    torch.testing.assert_close(layer(x)[0][0, :, 0], torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_a_begins_in_blocks_of_hippo():
    torch.manual_seed(0)
    layer, n = find("ema", "s5").cls(8, state_dim=10, block_dim=4), torch.arange(8, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    hippo = -(torch.outer(root, root).tril(-1) + torch.diag(n + 1)) + torch.outer(root, root) / 2
    a = torch.complex(-layer.log_rate.exp(), layer.frequency).detach().to(torch.complex128)
    eigenvalues = sorted((e for e in torch.linalg.eigvals(hippo).tolist() if e.imag > 0), key=lambda e: e.imag)
    expected = torch.tensor((eigenvalues * 3)[:10], dtype=torch.complex128)
    torch.testing.assert_close(a, expected, rtol=1e-6, atol=1e-6)


def test_matrices_begin_as_those_that_eigenvectors_turn():
    torch.manual_seed(0)
    layer, dim = find("ema", "s5").cls(256, state_dim=256), 256
    # Of real and imaginary parts alike, 1 / D and 2 / P in all, where the paper's P is twice the number of states.
    assert layer.write.weight.square().mean().item() == pytest.approx(1 / (2 * dim), rel=0.03)
    assert layer.read.weight.square().mean().item() == pytest.approx(1 / (2 * dim), rel=0.03)
    assert layer.log_step.exp().min() >= 1e-3 * (1 - 1e-5)
    assert layer.log_step.mean().item() == pytest.approx(math.log(1e-2), abs=0.3)


def test_the_state_stays_wide_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        y, state = build(dtype=torch.float32)(inputs(70).float().bfloat16())
    assert (y.dtype, state["h"].dtype) == (torch.bfloat16, torch.float32)


def test_refuses_a_range_of_steps_that_is_empty():
    with pytest.raises(ValueError, match=r"dt_min 0.2 is above dt_max 0.1"):
        find("ema", "s5").cls(4, dt_min=0.2)
