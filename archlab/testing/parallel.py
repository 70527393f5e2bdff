"""The check of a component in several processes against one.

B batch, T time, V outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from archlab.config.parallel import TENSOR_PATH, Layout
from archlab.config.plugins import load_plugin
from archlab.config.registry import find
from archlab.config.widths import is_heads
from archlab.errors import ConfigError
from archlab.modeling.build import build_on_meta
from archlab.modeling.state import State, auxiliary_loss
from archlab.parallel.carry import Carry, can_carry
from archlab.parallel.division import DoesNotDivide, plan_division
from archlab.parallel.gradients import sum_gradients
from archlab.parallel.ranks import Ranks
from archlab.parallel.relay import Relay
from archlab.parallel.session import Session
from archlab.parallel.shard import shard_model, unshard, whole_tensors
from archlab.parallel.tensor import divide_model
from archlab.testing.component_case import PRECISE, CheckFailed, ComponentCase, is_stream
from archlab.testing.rank_pool import rank_pool

TOKENS, ROWS = 12, 4  # which 2 and 4 divide
# Of models that answer at every step, and of the others, whose context is not cut.
STREAMS = (Layout(replicate=2), Layout(chunk=2), Layout(chunk=4), Layout(shard=2, chunk=2))
OTHERS = (Layout(replicate=2), Layout(replicate=2, shard=2))
# Of any model, as far as its heads and widths allow; in four processes the first that they do.
TENSOR = ((Layout(tensor=2),), (Layout(tensor=4), Layout(shard=2, tensor=2)))
TOLERANCE, TOLERANCE_OF_FLOAT32 = 1e-10, 2e-5
# Gradients that are zero but for rounding, such as that of a bias before a softmax, are compared with the others.
_SMALL = 1e-3


def several_processes_equal_one(case: ComponentCase) -> None:
    """2 and 4 processes give the outputs, the loss and the gradients of one, however they divide batch and context.

    So they do where they divide heads and channels, as far as the component declares it.
    """
    plugin = plugin_of(case)
    for layout, fitting in _layouts(case):
        for problem in rank_pool().run(layout.devices, compare_with_one, fitting, layout, plugin):
            if problem is not None:
                raise CheckFailed(problem)


def _layouts(case: ComponentCase) -> Iterator[tuple[Layout, ComponentCase]]:
    yield from ((layout, case) for layout in (STREAMS if is_stream(case, build_on_meta(case.spec())) else OTHERS))
    for layouts in TENSOR:
        # With as many heads as there are ranks, where its own do not divide.
        variants = ((x, v) for x in layouts for v in (case, case.with_knobs(**dict.fromkeys(_heads(case), x.tensor))))
        yield from islice((pair for pair in variants if _divides(pair[1], pair[0].tensor)), 1)


def _heads(case: ComponentCase) -> list[str]:
    """Return the knobs that are numbers of heads."""
    return [name for name, knob in find(case.kind, case.name).knobs.items() if is_heads(knob.type)]


def _divides(case: ComponentCase, size: int) -> bool:
    try:
        plan_division(build_on_meta(case.spec()), size)
    except ConfigError as error:
        # Heads that no model has, or that ranks do not divide. A plan that is wrong in itself is no such thing.
        if error.path == TENSOR_PATH and not isinstance(error, DoesNotDivide):
            raise CheckFailed(str(error)) from error
        return False
    return True


def plugin_of(case: ComponentCase) -> str | None:
    """Return the file that registers a component which does not ship with archlab."""
    cls = find(case.kind, case.name).cls
    return None if cls.__module__.startswith("archlab.components.") else str(Path(inspect.getfile(cls)).resolve())


def compare_with_one(session: Session, case: ComponentCase, layout: Layout, plugin: str | None) -> str | None:
    """Return the difference between this rank's part of outputs and gradients and those of one process."""
    if plugin is not None:
        load_plugin(plugin, Path())
    ranks = Ranks(layout, session)
    problem = _compare(case, ranks, PRECISE, TOLERANCE, _SMALL)
    if problem is None and layout.shard > 1:
        problem = _compare(case, ranks, torch.float32, TOLERANCE_OF_FLOAT32, 1.0)
    return problem


def _compare(case: ComponentCase, ranks: Ranks, dtype: torch.dtype, tolerance: float, small: float) -> str | None:
    """Return the first difference of more than a tolerance of the largest value, or of `small` of all gradients'."""
    inputs, targets = _example(case, case.build(dtype), dtype)
    expected = dict(_one(case.build(dtype), inputs, targets))
    floor = small * max(float(x.abs().max()) for name, x in expected.items() if name.startswith("gradients"))
    for name, actual in _part(case.build(dtype), inputs, targets, ranks):
        wanted = _own_part(expected[name], ranks) if name == "outputs" else expected[name]
        difference = float((actual - wanted).abs().max()) / max(float(wanted.abs().max()), floor)
        if difference > tolerance:
            where = " * ".join(f"{axis} {size}" for axis, size in ranks.layout.to_dict().items() if size > 1)
            kind = str(dtype).removeprefix("torch.")
            return f"{name} differ by {difference:.1e} of the largest in {kind} under {where}"
    return None


def _example(case: ComponentCase, model: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    inputs = case.example_inputs(TOKENS, dtype=dtype)
    inputs = torch.cat([inputs] * (ROWS // len(inputs)))
    inputs = torch.cat([x.roll(index, 0)[None] for index, x in enumerate(inputs)])  # so that no two rows are alike
    with torch.no_grad():
        logits = model(inputs)[0]
    targets = torch.arange(logits[..., 0].numel()) * 7 % logits.shape[-1]
    return inputs, targets.view(logits.shape[:-1])


def _one(model: nn.Module, inputs: Tensor, targets: Tensor) -> Iterator[tuple[str, Any]]:
    logits, state = model(inputs)
    loss = _loss(logits, targets) / targets.numel() + auxiliary_loss(state).sum() / targets.numel()
    loss.backward()
    yield "outputs", logits.detach()
    yield "losses", loss.detach()
    yield from ((f"gradients of {name}", p.grad) for name, p in model.named_parameters() if p.grad is not None)


def _part(model: nn.Module, inputs: Tensor, targets: Tensor, ranks: Ranks) -> Iterator[tuple[str, Any]]:
    carries = ranks.layout.chunk > 1 and ranks.count == 4 and can_carry(model)
    if ranks.layout.tensor > 1:
        divide_model(model, ranks.tensor_axis)
    carry = Carry(model, ranks.chunk_axis) if carries else None
    shard_model(model, ranks)
    # All models have the relay; components that declare more are tried in layouts of four.
    relay = Relay(ranks) if ranks.layout.chunk > 1 and carry is None else None
    outputs, losses = list[Tensor](), list[Tensor]()

    def forward(inputs: Tensor, own_targets: Tensor, initial: State | None = None) -> tuple[Tensor, State]:
        unshard(model)
        logits, state = model(inputs) if initial is None else model(inputs, initial)
        auxiliary = auxiliary_loss(state).sum() * (ranks.chunk_index == ranks.layout.chunk - 1)
        # Ranks that divide heads each have their part of an auxiliary loss, as of a mean over heads.
        loss = (_loss(logits, own_targets) + auxiliary) / targets.numel() / ranks.layout.tensor
        outputs.append(logits.detach())
        losses.append(loss.detach())
        return loss, state

    own = _own_part(inputs, ranks), _own_part(targets, ranks)
    if carry is not None:
        with carry.exchange(own[0]) as initial:
            forward(*own, initial)[0].backward()
    elif relay is None:
        forward(*own)[0].backward()
    else:
        relay.run(model, list(zip(*(tensor.split(1) for tensor in own), strict=True)), forward)
    sum_gradients(model, ranks)
    yield "outputs", torch.cat(outputs)
    loss = torch.stack(losses).sum()
    dist.all_reduce(loss)
    yield "losses", loss
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    yield from ((f"gradients of {name}", whole) for name, whole in whole_tensors(model, gradients).items())


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")


def _own_part(whole: Tensor, ranks: Ranks) -> Tensor:
    part = whole.chunk(ranks.layout.data)[ranks.data_index]
    return part if ranks.layout.chunk == 1 else part.chunk(ranks.layout.chunk, 1)[ranks.chunk_index]
