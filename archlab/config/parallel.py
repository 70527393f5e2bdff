"""The layout of a training run over many devices: the `parallel:` section of an experiment."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from archlab.config.domains import Count
from archlab.config.schema import Knob, coerce, reject_unknown
from archlab.errors import ConfigError

PATH = "parallel"
TENSOR_PATH = f"{PATH}.tensor"


@dataclass(frozen=True)
class Layout:
    """Number of devices along each axis: copies, weight shards (FSDP), tensor parallel, chunks of the context."""

    replicate: int = 1
    shard: int = 1
    tensor: int = 1
    chunk: int = 1

    @property
    def devices(self) -> int:
        """The number of devices."""
        return math.prod(asdict(self).values())

    @property
    def data(self) -> int:
        """The number of ranks that divide the sequences of an update."""
        return self.replicate * self.shard

    def to_dict(self) -> dict[str, int]:
        """Return the devices of each axis by its name."""
        return asdict(self)


@dataclass(frozen=True)
class ParallelConfig:
    """The devices of each axis; `replicate: null` takes the devices that the other axes leave."""

    replicate: Count | None = None
    shard: Count = 1
    tensor: Count = 1
    chunk: Count = 1

    @property
    def min_devices(self) -> int:
        """The number of devices of the layout, or the fewest if `replicate` takes the rest."""
        return (self.replicate or 1) * self.shard * self.tensor * self.chunk

    def fits(self, devices: int) -> bool:
        """Return whether there is a layout on the given number of devices."""
        inner = self.shard * self.tensor * self.chunk
        return devices == inner * (self.replicate or max(1, devices // inner))

    def layout(self, devices: int) -> Layout:
        """Return the layout on a number of devices; raise ConfigError if its product is another number."""
        inner = self.shard * self.tensor * self.chunk
        layout = Layout(self.replicate or max(1, devices // inner), self.shard, self.tensor, self.chunk)
        if layout.devices != devices:
            axes = " * ".join(f"{name} {size}" for name, size in layout.to_dict().items() if size > 1)
            raise ConfigError(PATH, f"{axes or 'a layout of one device'} is {layout.devices} devices, not {devices}")
        return layout


def parallel_knobs() -> dict[str, Knob]:
    """Return the axes as knobs, with types and defaults."""
    hints = get_type_hints(ParallelConfig, include_extras=True)
    return {axis.name: Knob(axis.name, hints[axis.name], axis.default) for axis in fields(ParallelConfig)}


def parse_parallel(value: Any) -> ParallelConfig | None:
    """Parse the `parallel:` section, which may be missing; raise ConfigError for unknown axes and invalid sizes."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ConfigError(PATH, f"{value!r} is not a mapping of axes to numbers of devices")
    knobs = parallel_knobs()
    reject_unknown(value, list(knobs), PATH)
    return ParallelConfig(**{key: coerce(size, knobs[key].type, f"{PATH}.{key}") for key, size in value.items()})


def layout_of(parallel: ParallelConfig | None, processes: int = 1) -> Layout:
    """Return the layout of a run in the given number of processes, all copies if an experiment has no `parallel:`.

    Raises ConfigError where the processes are not those of the layout, with the option that starts the right number.
    """
    config = parallel or ParallelConfig()
    if processes == 1 and config.min_devices > 1:
        raise ConfigError(
            PATH,
            f"a layout of {config.min_devices} devices, and this is one process: start {config.min_devices} of them "
            f"with --processes {config.min_devices}, torchrun or srun, or remove the section to train in one",
        )
    return config.layout(processes)


def divide_sequences(layout: Layout, batch_size: int, accumulate: int) -> tuple[int, int]:
    """Return how many sequences a rank has at a time, and how often in an update: `batch_size` at most, all the same.

    Raises ConfigError where the ranks do not divide the sequences of an update.
    """
    sequences = batch_size * accumulate
    if sequences % layout.data:
        raise ConfigError(
            PATH,
            f"replicate {layout.replicate} * shard {layout.shard} does not divide the {sequences} sequences of "
            "an update (train.batch_size * train.accumulate)",
        )
    local = sequences // layout.data
    micro = max(size for size in range(1, min(local, batch_size) + 1) if local % size == 0)
    return micro, local // micro


def require_chunks(layout: Layout, context: int) -> None:
    """Raise ConfigError where the chunks of a layout do not divide the context."""
    if context % layout.chunk:
        raise ConfigError(f"{PATH}.chunk", f"{layout.chunk} does not divide train.context, {context}")
