"""The layout of a training run over many devices: the `parallel:` section of an experiment."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from archlab.config.domains import Count
from archlab.config.schema import Knob, coerce, reject_unknown
from archlab.errors import ConfigError

PATH = "parallel"


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
        """The number of devices of the layout, or the fewest where `replicate` takes what is left."""
        return (self.replicate or 1) * self.shard * self.tensor * self.chunk

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


def require_one_device(parallel: ParallelConfig | None) -> None:
    """Raise ConfigError for a layout of several devices, on which archlab plans but does not train yet."""
    if parallel is not None and parallel.min_devices > 1:
        raise ConfigError(
            PATH,
            f"a layout of {parallel.min_devices} devices: archlab trains on one device today, and plans for many "
            "(archlab plan); remove the section to train here",
        )
