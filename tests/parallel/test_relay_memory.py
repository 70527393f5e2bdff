"""What a relay keeps between a piece's two passes."""

from __future__ import annotations

import torch

from archlab.parallel.relay import _own_gradient


def test_the_gradient_of_a_state_does_not_hold_that_of_what_it_was_joined_with() -> None:
    leaf = torch.ones(2, 3, requires_grad=True)
    leaf.register_post_accumulate_grad_hook(_own_gradient)
    inputs = torch.ones(2, 500, requires_grad=True)
    (torch.cat([leaf, inputs], 1) * 2).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.untyped_storage().nbytes() == leaf.grad.nbytes
    assert torch.equal(leaf.grad, torch.full((2, 3), 2.0))
