"""What every component promises.

B batch, T time, V outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from archlab.errors import one_line
from archlab.modeling.state import State, init_state
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

STEPS = (1e-5, 1e-7)  # a steep function has to be looked at more closely, where a flat one is lost in rounding
CUTS = ([TOKENS], [1] * TOKENS, [4, 8, 1])


@torch.no_grad()
def is_causal(subject: ComponentCase) -> None:
    """No input moves an earlier output, the last moves its own; a part that looks ahead says `causal = False`."""
    model = subject.build()
    if subject.inputs is not None or getattr(model, "per_sample", False):
        return
    expected = is_stream(subject, model)
    moved = [_first_moved(model, subject.read(), t) for t in range(TOKENS)]
    if expected:
        causal = all(first >= t for t, first in enumerate(moved)) and moved[-1] == TOKENS - 1
        require(causal, f"the first outputs that inputs 0, 1, ... move are {moved}")
    else:
        require(any(first < t for t, first in enumerate(moved)), "says causal = False, and does not look ahead")


def _first_moved(model: nn.Module, words_BT: Tensor, t: int) -> int:
    changed_BT = words_BT.clone()
    changed_BT[:, t] = (changed_BT[:, t] + 1) % (words_BT.max() + 1)
    distance_T = (model(changed_BT)[0] - model(words_BT)[0]).abs().amax((0, 2))
    moved_T = distance_T > 1e-12
    return int(moved_T.float().argmax()) if moved_T.any() else TOKENS


def chunked_equals_whole(subject: ComponentCase, dtype: torch.dtype = PRECISE, tolerance: float = 1e-10) -> None:
    """One call, calls of several tokens and calls of one token give the same outputs and the same state."""
    model = subject.build(dtype)
    if not is_stream(subject, model):
        return
    with torch.no_grad():
        whole, last = model(subject.read())
        for sizes in CUTS:
            cut, state = _in_pieces(model, subject.read(), sizes)
            require_close(cut, whole, tolerance, f"outputs of calls of {sizes} tokens")
            require_close(state, last, tolerance, f"the state after calls of {sizes} tokens")


def chunked_equals_whole_in_float32(subject: ComponentCase) -> None:
    """The same to within rounding where numbers are short."""
    chunked_equals_whole(subject, torch.float32, 1e-4)


def _in_pieces(model: nn.Module, words_BT: Tensor, sizes: list[int]) -> tuple[Tensor, State]:
    state, outputs = init_state(model, BATCH), []
    for piece in words_BT.split(sizes, dim=1):
        y, state = model(piece, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


@torch.no_grad()
def state_is_fixed(subject: ComponentCase) -> None:
    """A state's tensors keep shape, layout and type from the first token on, batch first, in memory of their own."""
    model = subject.build()
    if not is_stream(subject, model):
        return
    first, state = _layout(init_state(model, BATCH)), None
    for num_tokens in (TOKENS, 1, 2):
        _, state = model(subject.read(num_tokens), state)
        require(_layout(state) == first, f"the state changes from {first} to {_layout(state)}")
        require(all(t.shape[:1] == (BATCH,) for t in state.values()), "a tensor of the state is not batch first")
        whole = all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in state.values())
        require(whole, "a tensor of the state is a view of a larger one")


def _layout(state: State) -> dict[str, object]:
    return {name: (tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in state.items()}


@torch.no_grad()
def state_can_be_saved(subject: ComponentCase) -> None:
    """A stream goes on from a state that was written and read."""
    model = subject.build()
    if not is_stream(subject, model):
        return
    words_BT = subject.read()
    _, state = model(words_BT[:, :5])
    expected, _ = model(words_BT[:, 5:], state)
    restored, _ = model(words_BT[:, 5:], load(save({name: tensor.contiguous() for name, tensor in state.items()})))
    require_close(restored, expected, 0.0, "outputs after a saved state")


def gradients_reach_everything(subject: ComponentCase) -> None:
    """Every parameter has a finite gradient that is not zero, and an update lowers the loss."""
    model = subject.build(torch.float32)
    before = loss_of(model, subject.read())
    before.backward()
    for name, parameter in model.named_parameters():
        require(parameter.grad is not None and bool(parameter.grad.any()), f"{name} has no gradient")
        require(bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite")  # type: ignore[union-attr]
    torch.optim.AdamW(model.parameters(), lr=1e-3).step()
    require(bool(loss_of(model, subject.read()) < before), "an update against the gradient raises the loss")


def gradients_are_exact(subject: ComponentCase) -> None:
    """Gradients agree with differences of the loss in float64, and float32 with float64.

    A part that keeps its loss from some parameters, as an auxiliary loss for them asks, says `exact_gradients = False`.
    """
    model = subject.build()
    if not all(getattr(part, "exact_gradients", True) for part in model.modules()):
        return
    parameters = list(model.parameters())
    exact = torch.autograd.grad(loss_of(model, _as(subject.read(), PRECISE)), parameters, materialize_grads=True)
    directions = [torch.randn(p.shape, generator=torch.Generator().manual_seed(3), dtype=PRECISE) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(exact, directions, strict=True))
    slopes = [_difference(subject, model, parameters, directions, step) for step in STEPS]
    nearest = min(slopes, key=lambda found: float((found - slope).abs()))
    require_close(nearest, slope, 1e-5, "the slope of the loss")
    short = subject.build(torch.float32)
    rounded = torch.autograd.grad(loss_of(short, subject.read()), list(short.parameters()), materialize_grads=True)
    for (name, _), found, expected in zip(model.named_parameters(), rounded, exact, strict=True):
        require_close(found.to(PRECISE), expected, 1e-3 * float(expected.abs().max()) + 1e-6, f"the gradient of {name}")


@torch.no_grad()
def _difference(
    subject: ComponentCase, model: nn.Module, parameters: list[nn.Parameter], directions: list[Tensor], step: float
) -> Tensor:
    """Return the slope of the loss in a direction, by central differences of fourth order."""
    losses, at = {}, 0
    for place in (-2, -1, 1, 2):
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.add_(direction, alpha=(place - at) * step)
        at, losses[place] = place, loss_of(model, _as(subject.read(), PRECISE))
    for parameter, direction in zip(parameters, directions, strict=True):
        parameter.sub_(direction, alpha=at * step)
    return (8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / (12 * step)


def _as(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


def compiles(subject: ComponentCase) -> None:
    """torch.compile meets no break in the graph, and the compiled model gives the same numbers and gradients."""
    model, inputs = subject.build(), _as(subject.read(), PRECISE)
    parameters = list(model.parameters())
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    try:
        outputs = compiled(inputs)
    except compile_error() as error:
        raise CheckFailed(f"does not compile as one graph: {one_line(error)}") from error
    require_close(outputs, model(inputs), 1e-9, "outputs when compiled")
    expected = torch.autograd.grad(loss_of(model, inputs), parameters, materialize_grads=True)
    found = torch.autograd.grad(loss_of(compiled, inputs), parameters, materialize_grads=True)  # type: ignore[arg-type]
    for (name, _), ours, theirs in zip(model.named_parameters(), found, expected, strict=True):
        require_close(ours, theirs, 1e-8, f"the gradient of {name} when compiled")


@torch.no_grad()
def bfloat16_is_close(subject: ComponentCase) -> None:
    """Under autocast to bfloat16 the outputs stay within 5 % of those in float32, in the root mean square."""
    model = subject.build(torch.float32)
    expected, _ = model(subject.read())
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = model(subject.read())
    error = float((found.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    require(error < 0.05, f"outputs in bfloat16 are {error:.1%} off")


def default_checks() -> Iterator[Callable[[ComponentCase], None]]:
    """Yield the promises that hold for one choice of knobs."""
    yield from (is_causal, chunked_equals_whole, chunked_equals_whole_in_float32, state_is_fixed, state_can_be_saved)
    yield from (gradients_reach_everything, gradients_are_exact, compiles, bfloat16_is_close)
