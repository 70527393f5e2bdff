import pytest
import torch
from streams import assert_same_gradients

from archlab.ops.linear_recurrence import linear_recurrence, linear_recurrence_reference

B, D = 2, 3


def drawn(num_tokens, dtype=torch.float64):
    """Return inputs, decays of which some are 0 and some 1, and a state."""
    torch.manual_seed(0)
    decay = (1.2 * torch.rand(B, num_tokens, D, dtype=dtype) - 0.1).clamp(0, 1)
    inputs = [torch.randn(B, num_tokens, D, dtype=dtype), decay, torch.randn(B, D, dtype=dtype)]
    return [x.requires_grad_() for x in inputs]


def loop(u, decay, state):
    outputs = []
    for t in range(u.shape[1]):
        state = decay[:, t] * state + u[:, t]
        outputs.append(state)
    return torch.stack(outputs, 1), state


def joined(outputs):
    """Return the outputs and the last state as one tensor, so that both have gradients."""
    h, last = outputs
    return torch.cat((h, last[:, None]), 1)


@pytest.mark.parametrize("run", [linear_recurrence, linear_recurrence_reference])
@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 131, 16 * 16 + 5])
def test_agrees_with_a_loop(num_tokens, run):
    inputs = drawn(num_tokens)
    assert_same_gradients(joined(run(*inputs)), joined(loop(*inputs)), inputs)


def test_starts_from_zeros():
    u, decay, _ = drawn(19)
    expected = loop(u, decay, torch.zeros(B, D, dtype=torch.float64))
    torch.testing.assert_close(linear_recurrence(u, decay), expected, rtol=1e-12, atol=1e-12)


def test_float32_is_close():
    inputs = drawn(300, torch.float32)
    exact = loop(*(x.double() for x in inputs))
    for ours, wide in zip(linear_recurrence(*inputs), exact, strict=True):
        torch.testing.assert_close(ours.double(), wide, rtol=1e-5, atol=1e-5)


def test_continues_from_a_state():
    u, decay, state = drawn(75)
    whole, last = linear_recurrence(u, decay, state)
    outputs = []
    for start, stop in ((0, 1), (1, 68), (68, 75)):
        h, state = linear_recurrence(u[:, start:stop], decay[:, start:stop], state)
        outputs.append(h)
    torch.testing.assert_close((torch.cat(outputs, 1), state), (whole, last), rtol=1e-12, atol=1e-12)


def test_half_precision_is_rounded_at_the_ends():
    inputs = [x.bfloat16() for x in drawn(70)]
    expected, wide = linear_recurrence(*(x.float() for x in inputs))
    with torch.autocast("cpu", torch.bfloat16):
        h, state = linear_recurrence(*inputs)
    assert torch.equal(h, expected.bfloat16())
    assert torch.equal(state, wide)


@pytest.mark.slow
def test_compiles_without_a_break():
    torch._dynamo.reset()
    inputs = drawn(37)
    compiled = torch.compile(linear_recurrence, fullgraph=True, backend="aot_eager")
    assert_same_gradients(joined(compiled(*inputs)), joined(loop(*inputs)), inputs)
