"""Comparisons of one call on a sequence with calls on its chunks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from archlab.modeling.activation_checkpointing import Checkpointing, apply_activation_checkpointing


def in_pieces(layer, inputs: tuple[Tensor, ...], sizes: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a layer on chunks of [B, T, ...] inputs with these sizes, from its initial state."""
    state, outputs = layer.init_state(inputs[0].shape[0]), []
    for pieces in zip(*(x.split(sizes, dim=1) for x in inputs), strict=True):
        y, state = layer(*pieces, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def assert_one_stream(layer, *inputs: Tensor) -> None:
    """One call, calls of several sizes and calls of one token give the same outputs and the same final state."""
    num_tokens = inputs[0].shape[1]
    whole, last = layer(*inputs)
    for sizes in ([num_tokens], [1] * num_tokens, [3, num_tokens - 4, 1]):
        cut, state = in_pieces(layer, inputs, sizes)
        torch.testing.assert_close(cut, whole, rtol=1e-10, atol=1e-10)
        with_room = [layer.reserve_state(x, None) for x in (state, last)]
        torch.testing.assert_close(*with_room, rtol=1e-10, atol=1e-10)
        fresh = layer.init_state(inputs[0].shape[0])
        assert {k: v.dtype for k, v in state.items()} == {k: v.dtype for k, v in fresh.items()}
    for room in (num_tokens, None):
        state = layer.reserve_state(layer.init_state(inputs[0].shape[0]), room)
        before = {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}
        outputs = []
        for sizes in (1, num_tokens - 3, 1, 1):
            start = sum(y.shape[1] for y in outputs)
            y, state = layer(*(x[:, start : start + sizes] for x in inputs), state)
            outputs.append(y)
            assert {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()} == before
        torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-10, atol=1e-10)


def assert_same_gradients(y: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    """Two implementations of an op have the same values, and the same gradients in every leaf."""
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(expected)
    ours = torch.autograd.grad((y * weight).sum(), leaves)
    theirs = torch.autograd.grad((expected * weight).sum(), leaves)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def assert_recomputing_changes_nothing(
    build: Callable[[], nn.Module], x: Tensor, sizes: list[int], kind: Checkpointing
) -> None:
    """A model whose activations are recomputed has the outputs, state and gradients of one that keeps them."""
    results = []
    for recomputed in (False, True):
        model = build().train()
        if recomputed:
            apply_activation_checkpointing(model, kind)
        y, state = in_pieces(model, (x,), sizes)
        y.square().sum().backward()
        results.append((y, state, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
