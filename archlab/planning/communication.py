"""Time that collectives over the links of a layout take, and how much of it computing does not hide."""

from __future__ import annotations

from dataclasses import dataclass

from archlab.config.parallel import Layout
from archlab.planning.device import Device

# From the inside out: neighbors along the first axes share a node.
_ORDER = ("tensor", "chunk", "shard", "replicate")


@dataclass(frozen=True)
class Links:
    """The links of a layout on a device: `bandwidth` of a collective along each axis."""

    layout: Layout
    device: Device

    def bandwidth(self, axis: str) -> float:
        """Return the bytes per second that each rank of an axis receives in a collective."""
        device, inside = self.device, self._in_a_node(axis)
        size = self.layout.to_dict()[axis]
        # Every card of a node has a network card, and rings enter a node through all of those that belong to the group.
        limit = device.links.node if inside >= size else min(device.links.node, inside * device.links.network)
        return limit * device.efficiency.links

    def _in_a_node(self, axis: str) -> int:
        """Return how many ranks of one group along an axis are in the same node."""
        stride = 1
        for inner in _ORDER[: _ORDER.index(axis)]:
            stride *= self.layout.to_dict()[inner]
        return max(1, min(self.layout.to_dict()[axis], self.device.devices_per_node // stride))

    def gather_seconds(self, axis: str, size: float) -> float:
        """Return the time of an all-gather, or of a reduce-scatter, of tensors of `size` bytes along an axis."""
        ranks = self.layout.to_dict()[axis]
        return 0.0 if ranks == 1 else size * (ranks - 1) / ranks / self.bandwidth(axis)

    def reduce_seconds(self, axis: str, size: float) -> float:
        """Return the time of an all-reduce of tensors of `size` bytes along an axis: both of the above."""
        return 2 * self.gather_seconds(axis, size)
