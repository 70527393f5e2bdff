"""An update of one rank of a layout without memory and without the other ranks, followed by torch's own tracker.

The update is `TrainStep`'s, in the blocks, collectives and order of a run, on tensors that have a shape and no values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from archlab.config.experiment import Experiment
from archlab.config.parallel import Layout
from archlab.modeling.build import validate
from archlab.modeling.fake_model import on_fake_cpu
from archlab.modeling.step_trace import example_batch
from archlab.ops.dispatch import use_backends
from archlab.ops.op_costs import find_body, trace_loops
from archlab.ops.traced_backends import traced_backends
from archlab.parallel.gradients import clip_gradients
from archlab.parallel.ranks import Ranks
from archlab.parallel.relay import Relay
from archlab.parallel.session import Session
from archlab.planning.fewer_layers import by_few_layers
from archlab.runtime.distributed_env import Place
from archlab.runtime.private_apis import DispatchMode, fake_process_group, is_device_query, memory_tracker
from archlab.training.step import TrainStep

_CPU = torch.device("cpu")
_ACCUMULATE = 2  # micro-batches: the second finds the gradients of the first, and every other one is like it


def track_update(experiment: Experiment, layout: Layout) -> int:
    """Return the most bytes of tensors that are alive at once in an update, of the rank that has the most of them.

    A deep model's are counted from those of a few of its layers. The experiment's precision must be resolved. Raises
    ConfigError if the layout does not fit the experiment.
    """
    # The rank that has most of a deep model may not be the one that has most of a few layers.
    return max(by_few_layers(experiment, partial(track_ranks, layout=layout)))


def track_ranks(experiment: Experiment, layout: Layout) -> list[int]:
    """Return the same of each rank along `chunk`, of a model all of whose layers are run, which takes seconds each."""
    # The first has no state to start from, the last none to hand on, and attention keeps more from one to the next.
    most, relay = list[int](), None
    for chunk in range(layout.chunk):
        tracked, relay = _track(experiment, layout, chunk * layout.tensor, relay)
        most.append(tracked)
    return most


def _track(experiment: Experiment, layout: Layout, rank: int, before: Relay | None = None) -> tuple[int, Relay | None]:
    """Return the bytes of a rank, and its relay; `before` is that of the rank before it."""
    with (
        _fake_ranks(layout, rank) as ranks,
        use_backends(traced_backends(experiment.train.device)),
        torch.random.fork_rng(devices=[]),
    ):
        model = validate(experiment)
        with on_fake_cpu(model):
            step = _FakeStep(_without_compilation(experiment), ranks, model)
            if step.relay is not None and before is not None:
                step.relay.expect(before)
            step.fill_moments()
            tracker = memory_tracker()
            tracker.track_external(step.model, step.optimizer)
            with tracker, _Answers():
                step()
            return tracker.get_tracker_snapshot("peak")[_CPU]["Total"], step.relay


def _without_compilation(experiment: Experiment) -> Experiment:
    # A compiler has nothing to compile here; on a GPU it leaves less alive than is counted.
    return replace(experiment, train=replace(experiment.train, device="cpu", compile="off"))


@contextmanager
def _fake_ranks(layout: Layout, rank: int) -> Iterator[Ranks]:
    if layout.devices == 1:
        yield Ranks()
        return
    place = Place(rank, layout.devices, rank, layout.devices)
    with fake_process_group(rank, layout.devices):
        ranks = Ranks(layout, Session(place, _CPU, dist.HashStore()))
        assert ranks.mesh is not None  # made here: a mesh has values, which tensors without memory cannot hold
        yield ranks


class _FakeStep(TrainStep):
    """The step of a run on inputs of the task's shape."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.work = replace(self.work, accumulate=min(self.work.accumulate, _ACCUMULATE))

    def _can_carry(self) -> bool:
        """Go by the relay, as the compiled run that is planned does."""
        return False

    def _batches(self, micro_batch: int) -> list[tuple[Tensor, Tensor]]:
        own = replace(self.train, batch_size=self.work.rows, context=self.work.context)
        return [example_batch(self.task, self.model, own)]

    def fill_moments(self) -> None:
        """Create the state that every update but the first finds: the optimizer's moments, and DTensor's caches."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        # DTensor learns the shapes of results once for each operation, from whole tensors without memory of its own,
        # which the tracker could not distinguish from those of the update.
        with _Answers():
            clip_gradients(self.model, math.inf, self.ranks)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class _Answers(DispatchMode):
    """Answers 1 where Python reads a value of a tensor that has none, and runs the contents of opaque operations."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation, or answer in its place."""
        if is_device_query(func):
            return args[0].device
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # the operations on its parts come here too
        name, options = str(func.overloadpacket), dict(kwargs or {})
        if name == "aten._local_scalar_dense":
            return 1.0 if args[0].is_floating_point() else 1
        body = find_body(name)
        if body is None:
            return func(*args, **options)
        with self, trace_loops(_some):  # a mode is not active in its own method
            return body(*args, **options)


def _some(items: Sequence[Any]) -> Iterator[Any]:
    """Yield the items of a loop whose others are like the second."""
    yield from items if len(items) < 4 else (items[0], items[1], items[-1])
