"""The layouts that a number of devices allows, and the fastest of them that fits the device's memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from archlab.config.parallel import PATH, Layout, divide_sequences, require_chunks
from archlab.errors import ConfigError
from archlab.planning.sharded_step import Setting, ShardedStep, shard_step

# Beyond it, a plan says that nothing fits rather than how many devices would do.
MAX_DEVICES = 2**16
_SAME_TIME = 1.01  # layouts within 1 % are equally fast: the simpler one is proposed


@dataclass(frozen=True)
class Proposal:
    """The best layout of some devices, and whether it fits; `enough` devices would do if it does not."""

    step: ShardedStep
    fits: bool
    enough: int | None = None


def propose(setting: Setting, devices: int) -> Proposal:
    """Return the fastest layout that fits the memory, or the one of least memory and how many devices would do.

    Raises ConfigError where no layout divides the update's sequences and their context among the devices.
    """
    steps = [shard_step(setting, layout) for layout in iter_layouts(setting, devices)]
    if not steps:
        raise ConfigError(PATH, _nothing_divides(setting, devices))
    fitting = [step for step in steps if fits(setting, step)]
    if fitting:
        return Proposal(_fastest(fitting), True)
    least = min(steps, key=lambda step: (step.memory.total, step.time.total))
    return Proposal(least, False, _enough(setting, devices))


def fits(setting: Setting, step: ShardedStep) -> bool:
    """Return whether a step fits the device's memory."""
    return step.memory.total <= setting.device.memory


def iter_layouts(setting: Setting, devices: int) -> Iterator[Layout]:
    """Yield the layouts of a number of devices that divide sequences and context, those with a tensor axis in a node.

    The tensor axis takes the powers of two that divide the model's heads and widths.
    """
    for tensor in _divisors(devices):
        if tensor > setting.device.devices_per_node or tensor & (tensor - 1) or not setting.workload.divides(tensor):
            continue
        for chunk in _divisors(devices // tensor):
            if setting.context % chunk or (chunk > 1 and not setting.can_chunk):
                continue
            data = devices // tensor // chunk
            if setting.sequences % data == 0:
                yield from (Layout(data // shard, shard, tensor, chunk) for shard in _divisors(data))


def require_divisible(setting: Setting, layout: Layout) -> None:
    """Raise ConfigError for a layout that does not divide the sequences of an update, or their context."""
    train = setting.experiment.train
    divide_sequences(layout, train.batch_size, train.accumulate)
    require_chunks(layout, setting.context)


def _fastest(steps: Sequence[ShardedStep]) -> ShardedStep:
    limit = min(step.time.total for step in steps) * _SAME_TIME
    near = [step for step in steps if step.time.total <= limit]
    return min(near, key=lambda step: (step.layout.tensor, step.layout.chunk, step.layout.shard))


def _enough(setting: Setting, devices: int) -> int | None:
    while (devices := 2 * devices) <= MAX_DEVICES:
        if any(fits(setting, shard_step(setting, layout)) for layout in iter_layouts(setting, devices)):
            return devices
    return None


def _divisors(number: int) -> list[int]:
    low = [size for size in range(1, int(number**0.5) + 1) if number % size == 0]
    return low + [number // size for size in reversed(low) if size * size != number]


def _nothing_divides(setting: Setting, devices: int) -> str:
    return (
        f"no layout of {devices} devices divides the {setting.sequences} sequences of an update "
        f"(train.batch_size * train.accumulate) and their context of {setting.context}"
    )
