"""The checks that every component has to pass.

B batch, T time, V outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config.registry import find
from archlab.data.documents import pad_documents
from archlab.errors import one_line
from archlab.modeling import backbone
from archlab.modeling.compile import compiled_parts
from archlab.modeling.state import State, find_training_sum, init_state, reserve_state
from archlab.ops.linear_cross_entropy import IGNORED
from archlab.runtime.private_apis import compile_error
from archlab.testing.component_case import (
    BATCH,
    PRECISE,
    TOKENS,
    CheckFailed,
    ComponentCase,
    is_stream,
    loss_of,
    require,
    require_close,
)

STEPS = (
    1e-5,
    1e-7,
)  # of finite differences: a large step is too coarse for steep functions, a small one too noisy for flat ones
CALLS = (TOKENS, 1, 2)
ROW_LENGTHS = (3, 8)  # of the rows of a batch
DOCUMENT_LENGTHS = (TOKENS, 6)
CHUNK_SIZES = ([TOKENS], [1] * TOKENS, [4, 8, 1])


@torch.no_grad()
def is_causal(case: ComponentCase) -> None:
    """Outputs depend on no later input; a component that does look ahead declares `causal = False`."""
    model = case.build()
    if case.inputs is not None or backbone.is_per_sample(model):
        return
    tokens_BT = case.example_inputs()
    outputs_BTV, _ = model(tokens_BT)
    changed = [_first_changed_output(model, tokens_BT, outputs_BTV, t) for t in range(TOKENS)]
    looks_ahead = any(output < t for t, output in enumerate(changed))
    if is_stream(case, model):
        # The last input has to change the last output, or the model would lag behind its inputs.
        causal = not looks_ahead and changed[-1] == TOKENS - 1
        require(causal, f"the first outputs that change with inputs 0, 1, ... are {changed}")
    else:
        require(looks_ahead, "declares causal = False, but does not look ahead")


def _first_changed_output(model: nn.Module, tokens_BT: Tensor, outputs_BTV: Tensor, t: int) -> int:
    changed_BT = tokens_BT.clone()
    changed_BT[:, t] = (changed_BT[:, t] + 1) % (tokens_BT.max() + 1)
    distance_T = (model(changed_BT)[0] - outputs_BTV).abs().amax((0, 2))
    has_changed_T = distance_T > 1e-12
    return int(has_changed_T.float().argmax()) if has_changed_T.any() else TOKENS


def chunked_equals_whole(case: ComponentCase, dtype: torch.dtype = PRECISE, tolerance: float = 1e-10) -> None:
    """One call, calls of several tokens and calls of one token give the same outputs and the same final state."""
    model = case.build(dtype)
    if not is_stream(case, model):
        return
    with torch.no_grad():
        whole, last = model(case.example_inputs())
        for sizes in CHUNK_SIZES:
            chunked, state = _run_in_chunks(model, case.example_inputs(), sizes)
            require_close(chunked, whole, tolerance, f"outputs of calls of {sizes} tokens")
            # Many calls may have made more room than one.
            actual, expected = (reserve_state(model, x) for x in (state, last))
            require_close(actual, expected, tolerance, f"the state after calls of {sizes} tokens")


def chunked_equals_whole_in_float32(case: ComponentCase) -> None:
    """The same in float32, to within rounding."""
    chunked_equals_whole(case, torch.float32, 1e-4)


def _run_in_chunks(model: nn.Module, tokens_BT: Tensor, sizes: list[int]) -> tuple[Tensor, State]:
    state, outputs = init_state(model, BATCH), []
    for chunk_BT in tokens_BT.split(sizes, dim=1):
        y, state = model(chunk_BT, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


@torch.no_grad()
def has_fixed_size_state(case: ComponentCase) -> None:
    """With room reserved, state tensors keep shape, strides and dtype; always batch first, no views of larger ones."""
    model = case.build()
    if not is_stream(case, model):
        return
    for room in (sum(CALLS), None):
        state = reserve_state(model, init_state(model, BATCH), room)
        first = _layout(state)
        for num_tokens in CALLS:
            _, state = model(case.example_inputs(num_tokens), state)
            require(_layout(state) == first, f"the state changes from {first} to {_layout(state)}")
            _require_own_tensors(state)
    _require_own_tensors(model(case.example_inputs())[1])


def _require_own_tensors(state: State) -> None:
    require(all(t.shape[:1] == (BATCH,) for t in state.values()), "a tensor of the state is not batch first")
    whole = all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in state.values())
    require(whole, "a tensor of the state is a view of a larger one")


def _layout(state: State) -> dict[str, object]:
    return {name: (tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in state.items()}


@torch.no_grad()
def can_save_state(case: ComponentCase) -> None:
    """A state that was saved and loaded continues the sequence exactly."""
    model = case.build()
    if not is_stream(case, model):
        return
    tokens_BT = case.example_inputs()
    _, state = model(tokens_BT[:, :5])
    expected, _ = model(tokens_BT[:, 5:], state)
    restored, _ = model(tokens_BT[:, 5:], load(save({name: tensor.contiguous() for name, tensor in state.items()})))
    require_close(restored, expected, 0.0, "outputs after a saved state")


@torch.no_grad()
def rows_are_independent(case: ComponentCase) -> None:
    """Rows of a batch that have read different numbers of tokens give what each gives alone, as prompts in a batch."""
    model = case.build()
    if not is_stream(case, model):
        return
    streams = [row_T[None] for row_T in case.example_inputs()]
    states = [
        reserve_state(model, model(stream[:, :length])[1], TOKENS)
        for stream, length in zip(streams, ROW_LENGTHS, strict=True)
    ]
    state = {name: torch.cat([each[name] for each in states]) for name in states[0]}
    for step in range(TOKENS - max(ROW_LENGTHS)):
        tokens = (stream[:, length + step] for stream, length in zip(streams, ROW_LENGTHS, strict=True))
        y, state = model(torch.stack([*tokens]), state)
        for row, (stream, length) in enumerate(zip(streams, ROW_LENGTHS, strict=True)):
            expected, _ = model(stream[:, : length + step + 1])
            name = f"outputs of a row after {length + step} tokens, beside one of another length,"
            require_close(y[row, -1], expected[0, -1], 1e-10, name)


def packed_equals_separate(case: ComponentCase) -> None:
    """Documents in one batch, padded at their ends, have the outputs and gradients that each has alone."""
    model = case.build()
    if not is_stream(case, model) or find_training_sum(model) is not None:
        return
    rows = [row_T[:length] for row_T, length in zip(case.example_inputs(), DOCUMENT_LENGTHS, strict=True)]
    inputs, targets = pad_documents([(row_T, row_T) for row_T in rows])
    alone = [model(row_T[None])[0][0] for row_T in rows]
    packed = model(inputs)[0]
    require_close(packed[targets != IGNORED], torch.cat(alone), 1e-10, "outputs of documents in one batch")
    parameters = dict(model.named_parameters())
    apart, together = (
        torch.autograd.grad(_nats(logits, target), list(parameters.values()), materialize_grads=True)
        for logits, target in ((torch.cat(alone), torch.cat(rows)), (packed, targets))
    )
    for name, actual, expected in zip(parameters, together, apart, strict=True):
        require_close(actual, expected, 1e-9, f"the gradient of {name} for documents in one batch")


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    flat = targets.flatten()
    return F.cross_entropy(logits.flatten(0, -2), flat, ignore_index=IGNORED, reduction="sum") / (flat >= 0).sum()


def has_all_gradients(case: ComponentCase) -> None:
    """Every parameter has a finite, nonzero gradient, and an optimizer step lowers the loss."""
    model = case.build(torch.float32)
    before = loss_of(model, case.example_inputs())
    before.backward()
    for name, parameter in model.named_parameters():
        require(parameter.grad is not None and bool(parameter.grad.any()), f"{name} has no gradient")
        require(bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite")  # type: ignore[union-attr]
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()
    require(bool(loss_of(model, case.example_inputs()) < before), "an optimizer step raises the loss")


def has_exact_gradients(case: ComponentCase) -> None:
    """Gradients agree with finite differences of the loss in float64, and float32 gradients with float64 ones.

    A component that stops gradients on purpose declares `exact_gradients = False`.
    """
    model = case.build()
    if not backbone.has_exact_gradients(model):
        return
    slopes_are_exact(case)
    inputs, in_float32 = case.example_inputs(dtype=PRECISE), case.build(torch.float32)
    exact = torch.autograd.grad(loss_of(model, inputs), list(model.parameters()), materialize_grads=True)
    rounded = torch.autograd.grad(
        loss_of(in_float32, case.example_inputs()), list(in_float32.parameters()), materialize_grads=True
    )
    for (name, _), actual, expected in zip(model.named_parameters(), rounded, exact, strict=True):
        require_close(
            actual.to(PRECISE), expected, 1e-3 * float(expected.abs().max()) + 1e-6, f"the gradient of {name}"
        )


def slopes_are_exact(case: ComponentCase) -> None:
    """The loss has the slope of its gradients in a random direction, by finite differences in float64."""
    model = case.build()
    if not backbone.has_exact_gradients(model):
        return
    parameters = list(model.parameters())
    exact = torch.autograd.grad(loss_of(model, case.example_inputs(dtype=PRECISE)), parameters, materialize_grads=True)
    directions = [torch.randn(p.shape, generator=torch.Generator().manual_seed(3), dtype=PRECISE) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(exact, directions, strict=True))
    slopes = [_finite_difference(case, model, parameters, directions, step) for step in STEPS]
    nearest = min(slopes, key=lambda estimate: float((estimate - slope).abs()))
    require_close(nearest, slope, 1e-5, "the slope of the loss")


@torch.no_grad()
def _finite_difference(
    case: ComponentCase, model: nn.Module, parameters: list[nn.Parameter], directions: list[Tensor], step: float
) -> Tensor:
    """Return the directional derivative of the loss, by fourth-order central differences."""
    losses, offset = {}, 0
    for target in (-2, -1, 1, 2):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.add_(direction, alpha=(target - offset) * step)
        offset, losses[target] = target, loss_of(model, case.example_inputs(dtype=PRECISE))
    for parameter, direction in zip(parameters, directions, strict=True):
        parameter.sub_(direction, alpha=offset * step)
    return (8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / (12 * step)


def compiles(case: ComponentCase) -> None:
    """torch.compile captures each block as one graph, with the same outputs and gradients."""
    model, inputs = case.build(), case.example_inputs(dtype=PRECISE)
    expected, expected_gradients = _run(model, inputs)
    torch.compiler.reset()  # the recompile limit counts per function, and earlier models share forward()
    for part in _parts_to_compile(case, model):
        part.compile(fullgraph=True, backend="aot_eager")
    with warnings.catch_warnings():
        # torch's own, about the input of a block, which is no leaf (torch 2.13).
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
        try:
            actual, gradients = _run(model, inputs)
        except compile_error() as error:
            raise CheckFailed(f"does not compile as one graph: {one_line(error)}") from error
    require_close(actual, expected, 1e-9, "outputs when compiled")
    for name, gradient in gradients.items():
        require_close(gradient, expected_gradients[name], 1e-8, f"the gradient of {name} when compiled")


def _parts_to_compile(case: ComponentCase, model: nn.Module) -> list[nn.Module]:
    """Return what a run compiles by block that holds the component, or all where it is not a module of one part.

    Identical blocks are traced once, where a model as a whole holds each of them.
    """
    parts, cls = compiled_parts(model), find(case.kind, case.name).cls
    return [part for part in parts if any(isinstance(module, cls) for module in part.modules())] or parts


def _run(model: nn.Module, inputs: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """Return the outputs, and the gradient of each parameter."""
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss_of(model, inputs), list(parameters.values()), materialize_grads=True)
    return model(inputs), dict(zip(parameters, gradients, strict=True))


@torch.no_grad()
def bfloat16_is_close(case: ComponentCase) -> None:
    """Outputs under bfloat16 autocast have a root-mean-square error below 5% relative to float32."""
    model = case.build(torch.float32)
    expected, _ = model(case.example_inputs())
    with torch.autocast("cpu", torch.bfloat16):
        actual, _ = model(case.example_inputs())
    error = float((actual.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    require(error < 0.05, f"outputs in bfloat16 are {error:.1%} off")


def default_checks() -> Iterator[Callable[[ComponentCase], None]]:
    """Yield the checks that need one model alone, and no variation of its knobs."""
    yield from (is_causal, chunked_equals_whole, chunked_equals_whole_in_float32, has_fixed_size_state, can_save_state)
    yield from (rows_are_independent, packed_equals_separate)
    yield from (has_all_gradients, has_exact_gradients, compiles, bfloat16_is_close)
