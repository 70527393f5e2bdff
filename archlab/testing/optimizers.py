"""The checks that every optimizer has to pass, on a small model with parameters of all roles."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from archlab.config.parallel import Layout
from archlab.config.plugins import load_plugin
from archlab.config.registry import find
from archlab.config.train_config import OPTIMIZER, TrainConfig, parse_train
from archlab.errors import ConfigError
from archlab.modeling.optimizer import at_average, saved_shapes, update_rule
from archlab.parallel.gradients import sum_gradients
from archlab.parallel.ranks import Ranks
from archlab.parallel.session import Session
from archlab.parallel.shard import shard_model, unshard, whole_tensors
from archlab.parallel.tensor import divide_model
from archlab.storage.checkpoint import load_checkpoint, save_checkpoint
from archlab.testing.component_case import CheckFailed, ComponentCase, loss_of, require, require_close
from archlab.testing.parallel import plugin_of
from archlab.testing.rank_pool import rank_pool
from archlab.testing.variation import other_values
from archlab.training.optimizer import build_optimizer

UPDATES, LR, ROWS = 3, 1e-3, 4
LAYOUTS = (Layout(shard=2), Layout(shard=4), Layout(tensor=2))
TOLERANCE = 1e-9


def train_of(case: ComponentCase, **settings: Any) -> TrainConfig:
    """Return the training configuration of a case; raise ConfigError for knobs that the optimizer does not have."""
    given = {"lr": LR, "groups": [{"match": "head*", "lr_scale": 0.5}], **settings}
    return parse_train({**given, OPTIMIZER.kind: {"type": case.name, **case.knobs}})


def lowers_the_loss(case: ComponentCase) -> None:
    """A few updates change every parameter and lower the loss, at the point that is used."""
    model = case.build(torch.float32)
    before, inputs = {name: p.detach().clone() for name, p in model.named_parameters()}, case.example_inputs()
    loss, optimizer = loss_of(model, inputs).item(), build_optimizer(model, train_of(case))
    _update(model, optimizer, inputs, 2 * UPDATES)
    with at_average(optimizer), torch.no_grad():
        require(float(loss_of(model, inputs)) < loss, "updates raise the loss")
        for name, parameter in model.named_parameters():
            require(not torch.equal(parameter, before[name]), f"{name} is not updated")


def declares_its_state(case: ComponentCase) -> None:
    """The state of each parameter is that of `state_shapes`, which plans and checkpoints rely on."""
    model, train = case.build(torch.float32), train_of(case)
    optimizer = build_optimizer(model, train)
    _update(model, optimizer, case.example_inputs(), 2)
    expected = saved_shapes(train, model)
    with at_average(optimizer):
        for name, parameter in model.named_parameters():
            kept = {key: tuple(value.shape) for key, value in optimizer.state[parameter].items()}
            require(kept == dict(expected[name]), f"of {name!r} it keeps {kept}, and declares {expected[name]}")


def resumes_bit_for_bit(case: ComponentCase) -> None:
    """Saved, loaded into another model and continued, it makes the same updates as uninterrupted."""
    train, inputs = train_of(case), case.example_inputs()
    model, other = case.build(torch.float32), case.build(torch.float32)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-1)
    optimizer, its_optimizer = build_optimizer(model, train), build_optimizer(other, train)
    _update(model, optimizer, inputs, UPDATES)
    with tempfile.TemporaryDirectory() as folder:
        saved = save_checkpoint(Path(folder), UPDATES, model, optimizer, {}, keep=1)
        load_checkpoint(saved, other, its_optimizer, saved_shapes(train, other))
    _require_equal(model, other, "loaded")
    for each, its in ((model, optimizer), (other, its_optimizer)):
        _update(each, its, inputs, UPDATES)
    _require_equal(model, other, "continued")
    with at_average(optimizer), at_average(its_optimizer):
        _require_equal(model, other, "continued and averaged")


def _require_equal(model: nn.Module, other: nn.Module, when: str) -> None:
    for (name, mine), its in zip(model.named_parameters(), other.parameters(), strict=True):
        require(torch.equal(mine, its), f"{name} differs once {when}")


def has_no_dead_knob(case: ComponentCase) -> None:
    """Every knob changes the updates."""
    original = _train(case)
    for knob in find(case.kind, case.name).knobs.values():
        others = (case.with_knobs(**{knob.name: value}) for value in other_values(knob))
        if not any(_differs(original, other) for other in others):
            raise CheckFailed(f"the knob {knob.name!r} has no effect")


def _differs(original: list[Tensor], other: ComponentCase) -> bool:
    try:
        changed = _train(other)
    except ConfigError:
        return False
    return any(not torch.equal(mine, its) for mine, its in zip(original, changed, strict=True))


def _train(case: ComponentCase) -> list[Tensor]:
    model = case.build(torch.float32)
    optimizer = build_optimizer(model, train_of(case))
    for number in range(2 * UPDATES):
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 + number % UPDATES)  # a schedule, with which some knobs have to do
        _update(model, optimizer, case.example_inputs(), 1)
    with at_average(optimizer):
        return [parameter.detach().clone() for parameter in model.parameters()]


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, count: int) -> None:
    for _ in range(count):
        loss_of(model, inputs).backward()
        optimizer.step()
        optimizer.zero_grad()


def several_processes_equal_one(case: ComponentCase) -> None:
    """2 and 4 processes that divide a model make the updates of one, as far as the optimizer declares it."""
    divided_by = update_rule(train_of(case)).divided_by
    for layout in LAYOUTS:
        if all(size == 1 or axis in divided_by for axis, size in layout.to_dict().items()):
            for problem in rank_pool().run(layout.devices, compare_updates, case, layout, plugin_of(case)):
                require(problem is None, str(problem))


def compare_updates(session: Session, case: ComponentCase, layout: Layout, plugin: str | None) -> str | None:
    """Return how the parameters that ranks have updated differ from those of one process."""
    if plugin is not None:
        load_plugin(plugin, Path())
    ranks, train, model, alone = Ranks(layout, session), train_of(case), case.build(), case.build()
    inputs = torch.cat([case.example_inputs()] * (ROWS // len(case.example_inputs())))
    if layout.tensor > 1:
        divide_model(model, ranks.tensor_axis)
    shard_model(model, ranks)
    optimizer, its_optimizer = build_optimizer(model, train), build_optimizer(alone, train)
    for _ in range(UPDATES):
        _update(alone, its_optimizer, inputs, 1)
        unshard(model)
        # All ranks have all rows: their gradients, which are summed, are a part of it each.
        (loss_of(model, inputs) / dist.get_world_size()).backward()
        sum_gradients(model, ranks)
        optimizer.step()
        optimizer.zero_grad()
    with at_average(optimizer), at_average(its_optimizer):
        return _difference(whole_tensors(model, dict(model.named_parameters())), alone, layout)


def _difference(whole: dict[str, Tensor], alone: nn.Module, layout: Layout) -> str | None:
    for name, parameter in alone.named_parameters():
        try:
            require_close(whole[name], parameter.detach(), TOLERANCE, name)
        except CheckFailed as error:
            return f"under {layout}: {error}"
    return None


def optimizer_checks() -> Iterator[Callable[[ComponentCase], None]]:
    """Yield the checks of an optimizer."""
    yield from (lowers_the_loss, declares_its_state, resumes_bit_for_bit, has_no_dead_knob)
    yield several_processes_equal_one
