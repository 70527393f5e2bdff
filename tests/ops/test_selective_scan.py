"""The scan in blocks agrees with the loop over steps, values and gradients, whatever the steps."""

import pytest
import torch
from torch import Tensor

from archlab.ops.selective_scan import decayed_sums, selective_scan, selective_scan_reference


def inputs(num_tokens: int, dtype: torch.dtype = torch.float64, largest_step: float = 2.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(num_tokens)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    x, taken, given, state = draw(2, num_tokens, 3), draw(2, num_tokens, 4), draw(2, num_tokens, 4), draw(2, 3, 4)
    step = largest_step * torch.rand(2, num_tokens, 3, generator=generator, dtype=torch.float64).to(dtype)
    rate = -torch.rand(3, 4, generator=generator, dtype=torch.float64).to(dtype) * 5
    return [tensor.requires_grad_() for tensor in (x, step, rate, taken, given, state)]


@pytest.mark.parametrize("num_tokens", [1, 2, 15, 16, 17, 33, 300])
@pytest.mark.parametrize("largest_step", [0.01, 2.0, 50.0])
def test_blocks_and_loop_agree(num_tokens: int, largest_step: float) -> None:
    leaves = inputs(num_tokens, largest_step=largest_step)
    found, expected = selective_scan(*leaves), selective_scan_reference(*leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = [torch.randn_like(tensor) for tensor in expected]
    gradients = [
        torch.autograd.grad(sum((y * w).sum() for y, w in zip(pair, weights, strict=True)), leaves)
        for pair in (found, expected)
    ]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_a_state_goes_on() -> None:
    x, step, rate, taken, given, _ = inputs(41)
    whole, last = selective_scan(x, step, rate, taken, given)
    early, middle = selective_scan(x[:, :18], step[:, :18], rate, taken[:, :18], given[:, :18])
    late, end = selective_scan(x[:, 18:], step[:, 18:], rate, taken[:, 18:], given[:, 18:], middle)
    torch.testing.assert_close(torch.cat((early, late), 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(end, last, rtol=1e-10, atol=1e-10)
    assert end.untyped_storage().nbytes() == end.numel() * end.element_size()


def test_float32_is_close_and_halves_are_summed_in_it() -> None:
    exact, _ = selective_scan_reference(*inputs(300))
    close, state = selective_scan(*inputs(300, torch.float32))
    torch.testing.assert_close(close.double(), exact, rtol=1e-4, atol=1e-4)
    halved, state = selective_scan(*inputs(300, torch.bfloat16))
    assert (halved.dtype, state.dtype) == (torch.bfloat16, torch.float32)


def test_sums_of_long_texts_are_joined_at_several_levels() -> None:
    factors, added = torch.rand(1, 5000, 2, dtype=torch.float64), torch.randn(1, 5000, 2, dtype=torch.float64)
    states, last = decayed_sums(factors, added, torch.ones(1, 2, dtype=torch.float64))
    h = torch.ones(1, 2, dtype=torch.float64)
    for t in range(5000):
        h = factors[:, t] * h + added[:, t]
        torch.testing.assert_close(states[:, t], h, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, h, rtol=1e-12, atol=1e-12)
