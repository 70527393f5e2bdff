"""Checks of streams: the effects of other calls, other rows and other documents on a call.

B batch, T time, V outputs.
"""

from __future__ import annotations

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.data.documents import pad_documents
from archlab.modeling import backbone
from archlab.modeling.state import State, find_training_sum, init_state, reserve_state
from archlab.ops.linear_cross_entropy import IGNORED
from archlab.testing.component_case import (
    BATCH,
    PRECISE,
    TOKENS,
    ComponentCase,
    is_stream,
    require,
    require_close,
)

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
    """Rows of a batch that have read different numbers of tokens, such as prompts, have the same outputs as alone."""
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
