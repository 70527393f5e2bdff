"""Log-linear attention against its definition, pair by pair, with the ranges of a Fenwick tree."""

import pytest
import torch
from streams import assert_same_gradients

from archlab.ops.log_linear import levels, log_linear

B, H, K, V, L = 2, 3, 5, 4, 9


def draw(num_tokens, num_scales=L):
    torch.manual_seed(num_tokens)
    shapes = ((H, K), (H, K), (H, V), (H,), (H, num_scales))
    q, k, v, decay, scales = (torch.randn(B, num_tokens, *shape, dtype=torch.float64) for shape in shapes)
    return [x.requires_grad_() for x in (q, k, v, -decay.exp(), scales)]


def ranges(t):
    """Return the level of each token up to t, by taking the lowest bit off its number again and again."""
    found, end = [0] * (t + 1), t
    while end:
        lowest = end & -end
        for s in range(end - lowest, end):
            found[s] = lowest.bit_length()
        end -= lowest
    return found


def pairs(q, k, v, log_decay, scales):
    outputs = []
    for t in range(q.shape[1]):
        y = torch.zeros(B, H, V, dtype=q.dtype)
        for s, level in enumerate(ranges(t)):
            weight = scales[:, t, :, min(level, scales.shape[-1] - 1)] * log_decay[:, s + 1 : t + 1].sum(1).exp()
            y = y + (weight * (q[:, t] * k[:, s]).sum(-1))[..., None] * v[:, s]
        outputs.append(y)
    return torch.stack(outputs, 1)


def run(inputs, position=0, state=None, room=8):
    start = torch.full((B,), position) if isinstance(position, int) else position
    empty = inputs[0].new_zeros(B, min(room, inputs[4].shape[-1] - 1), H, K, V)
    return log_linear(*inputs, start, empty if state is None else state)


@pytest.mark.slow
@pytest.mark.parametrize("num_tokens", [1, 2, 7, 64, 70])
def test_agrees_with_its_definition(num_tokens):
    inputs = draw(num_tokens)
    assert_same_gradients(run(inputs)[0], pairs(*inputs), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("num_scales", [2, 4])
def test_the_last_level_is_that_of_all_higher_ones(num_scales):
    inputs = draw(37, num_scales)
    assert_same_gradients(run(inputs)[0], pairs(*inputs), inputs)


@pytest.mark.slow
def test_rows_go_on_from_positions_of_their_own():
    inputs = draw(133)
    whole, first, second = pairs(*inputs), [x[:1] for x in inputs], [x[1:] for x in inputs]
    starts, states = torch.tensor([67, 30]), []
    for row, start in zip((first, second), starts.tolist(), strict=True):
        empty = inputs[0].new_zeros(1, 8, H, K, V)
        states.append(log_linear(*(x[:, :start] for x in row), torch.zeros(1, dtype=torch.int64), empty)[1])
    rest = [torch.stack([x[row, start : start + 66] for row, start in enumerate(starts)]) for x in inputs]
    expected = torch.stack([whole[row, start : start + 66] for row, start in enumerate(starts)])
    assert_same_gradients(run(rest, starts, torch.cat(states))[0], expected, inputs)


def test_states_hold_ranges_as_long_as_the_bits_of_the_position():
    q, k, v, log_decay, scales = draw(75)
    _, state = run((q, k, v, log_decay, scales))
    found = torch.tensor(ranges(75)[:75])
    for place in range(8):
        taken, decay = found == place + 1, log_decay.flip(1).cumsum(1).flip(1)[:, 1:].exp()
        decay = torch.cat((decay, torch.ones(B, 1, H, dtype=decay.dtype)), 1)
        expected = torch.einsum("bth,bthk,bthv->bhkv", decay[:, taken], k[:, taken], v[:, taken])
        torch.testing.assert_close(state[:, place], expected, rtol=1e-10, atol=1e-12)
        assert int(taken.sum()) == 75 & 1 << place


def test_strong_decay_is_exact():
    q, k, v, log_decay, scales = (x.detach() for x in draw(70))
    inputs = (q, k, v, 1e4 * log_decay, scales)
    torch.testing.assert_close(run(inputs)[0], pairs(*inputs), rtol=1e-10, atol=1e-12)
    narrow = tuple(x.float().requires_grad_() for x in inputs)
    gradients = torch.autograd.grad(run(narrow)[0].sum(), narrow)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_levels_are_places_of_bits():
    numbers = torch.tensor([0, 1, 2, 3, 4, 7, 8, 2**40])
    assert levels(numbers, 50).tolist() == [int(n).bit_length() for n in numbers]
    assert levels(numbers, 3).tolist() == [0, 1, 2, 2, 3, 3, 3, 3]


def test_half_precision_is_rounded_at_the_end():
    inputs = tuple(x.detach().bfloat16() for x in draw(70))
    expected, wide = run(tuple(x.float() for x in inputs), state=torch.zeros(B, 8, H, K, V))
    y, state = run(inputs, state=torch.zeros(B, 8, H, K, V))
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(y, expected.bfloat16())
    assert torch.equal(state, wide)
