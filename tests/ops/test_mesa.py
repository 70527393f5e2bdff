"""The mesa layer's operation against a solver, token by token; parts of its state continue from call to call."""

import pytest
import torch
from streams import assert_same_gradients

from archlab.ops.mesa import mesa, mesa_reference

B, H, K, V = 2, 3, 6, 5


def draw(num_tokens, carried=False):
    torch.manual_seed(num_tokens)
    q, k, v = (torch.randn(B, num_tokens, H, width, dtype=torch.float64) for width in (K, K, V))
    beta, log_decay = torch.rand(B, num_tokens, H), -torch.rand(B, num_tokens, H) / 5
    leaves = [q, k / k.norm(dim=-1, keepdim=True), v, beta, log_decay, torch.rand(H, K) + 0.25]
    if carried:
        root = torch.randn(B, H, K, K)  # keys times keys: symmetric, and not negative
        leaves.append(torch.cat((root @ root.mT, torch.randn(B, H, K, V)), -1))
    return [x.double().requires_grad_() for x in leaves]


def together(outputs):
    return torch.cat([part.flatten() for part in outputs])


@pytest.mark.parametrize("num_tokens", [1, 2, 64, 70])
def test_agrees_with_a_solver(num_tokens):
    leaves = draw(num_tokens)
    assert_same_gradients(together(mesa(*leaves, None, 30)), together(mesa_reference(*leaves, None)), leaves)


@pytest.mark.parametrize("num_tokens", [1, 70])
def test_continues_from_a_state(num_tokens):
    *leaves, state = draw(num_tokens, carried=True)
    forms = (lambda: together(mesa(*leaves, state, 30)), lambda: together(mesa_reference(*leaves, state)))
    assert_same_gradients(*(form() for form in forms), leaves)
    symmetric = torch.randn_like(state)[..., :K]
    symmetric = torch.cat((symmetric + symmetric.mT, torch.randn(B, H, K, V)), -1)  # as sums of keys stay
    slopes = [(torch.autograd.grad(form().sum(), state)[0] * symmetric).sum() for form in forms]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)


def test_is_the_least_squares_fit():
    q, k, v, beta, log_decay, ridge = (x.detach() for x in draw(40))
    left = log_decay[:, 1:].flip(1).cumsum(1).flip(1)
    weight = beta * torch.cat((left, torch.zeros(B, 1, H)), 1).exp()
    for head in range(H):
        rows = weight[0, :, head, None].sqrt()
        keys = torch.cat((rows * k[0, :, head], torch.diag(ridge[head].sqrt())))
        values = torch.cat((rows * v[0, :, head], torch.zeros(K, V)))
        fitted = torch.linalg.lstsq(keys, values).solution
        y = mesa(q, k, v, beta, log_decay, ridge, None, 30)[0][0, -1, head]
        torch.testing.assert_close(y, q[0, -1, head] @ fitted, rtol=1e-10, atol=1e-10)


def test_few_steps_come_ever_closer():
    leaves = [x.detach() for x in draw(70)]
    exact = mesa_reference(*leaves, None)[0]
    errors = [float((mesa(*leaves, None, steps)[0] - exact).abs().max()) for steps in range(1, K + 1)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-2
    assert errors[-1] < 1e-10


def test_nothing_is_left_to_solve_for_queries_of_zeros():
    q, *others = (x.detach().float().requires_grad_() for x in draw(9))
    y, _ = mesa(q * 0, *others, None, 30)
    gradients = torch.autograd.grad(y.square().sum(), [q, *others])
    assert not y.any()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_many_tokens_stay_exact_in_float32():
    wide = [x.detach() for x in draw(600)]
    wide[4] *= 1e-3  # so that sums of 300 keys are beside a ridge of a quarter
    expected, _ = mesa_reference(*wide, None)
    actual, state = mesa(*(x.float() for x in wide), None, 30)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5)
    assert state.dtype == torch.float32


@pytest.mark.slow
def test_compiles_as_one_graph():
    leaves = draw(13)
    compiled = torch.compile(mesa, fullgraph=True, backend="aot_eager")
    assert_same_gradients(compiled(*leaves, None, 8)[0], mesa(*leaves, None, 8)[0], leaves)
