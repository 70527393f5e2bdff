"""The peak of a device that has the blocks of a model whole one at a time, as FSDP has them: moment by moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from archlab.modeling.block_memory import StepMemory


@dataclass(frozen=True)
class Moment:
    """Bytes at one moment of an update.

    `alive` are those of tensors that are not divided, `gathered` of weights that are whole and of buffers that they are
    sent in, and `reduced` of gradients, whole, of which the device has its part by then.
    """

    alive: int
    gathered: int
    reduced: int

    def total(self, shard: int) -> int:
        """Return the bytes in all where so many devices divide gradients."""
        return self.alive + self.gathered + self.reduced // shard


def peak_moment(memory: StepMemory, shard: int, *, pieces: int, again: bool) -> Moment:
    """Return the moment that takes most of an update on a device.

    A micro-batch goes forward in so many pieces, each of the `memory`, before any of them goes backward; `again` is of
    an update whose micro-batches add their gradients to those of earlier ones.
    """
    passes = [(pieces - 1, True, again)]
    if pieces > 1:
        # FSDP knows the order of blocks for one backward pass, and fetches none ahead in those after it.
        passes.append((pieces - 2, False, True))
    moments = [
        replace(moment, alive=moment.alive + others * memory.saved, reduced=_whole(memory) if full else moment.reduced)
        for others, fetches, full in passes
        for moment in _moments(memory, fetches=fetches)
    ]
    return max(moments, key=lambda moment: moment.total(shard))


def _whole(memory: StepMemory) -> int:
    return memory.end_bytes + memory.block_bytes


def _moments(memory: StepMemory, *, fetches: bool) -> Iterator[Moment]:
    """Yield the moments of a micro-batch: forward, the loss, and back from the last block to the first."""
    ends, blocks = memory.end_bytes, memory.blocks
    sizes = [0, *(block.weight_bytes for block in blocks), 0]
    for block in blocks:
        # Its weights, and the buffer that they came in, which is kept until the next one's have come.
        yield Moment(block.forward, ends + 2 * block.weight_bytes, 0)
    yield Moment(memory.ends, ends, 0)
    reduced = 0
    # Of a block that is called several times, the gradients of all calls but the last add to those that are there.
    new = [0, *(block.weight_bytes if block.is_last else 0 for block in blocks), 0]
    passes = list(zip(sizes, blocks, sizes[2:], new[2:], strict=False))
    for before, block, after, added in reversed(passes):
        # The weights of the block before are on their way here, and the gradients of the one after on theirs.
        reduced += added
        fetched = before if fetches else 0
        yield Moment(block.backward, ends + block.weight_bytes + fetched + after, reduced)
    # The gradients around the blocks, whole and on their way, and those of the first block.
    yield Moment(ends, ends + sizes[1], _whole(memory) - ends)
