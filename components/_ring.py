"""A ring of the last steps of a stream: position p is in slot p modulo its size.

Up to its size a ring holds only the steps read so far: it grows at its end, with memory for later steps.

B batch, T new steps, S slots.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from archlab import RESERVED, State
from archlab.ops.assertions import assert_async


def update_ring(ring_BS: Tensor | None, new_BT: Tensor, position_BT: Tensor, size: int, slots: int) -> Tensor:
    """Return a ring of `slots` slots after new steps, the first of a stream without a ring."""
    T = new_BT.shape[1]
    if ring_BS is None:
        return new_BT.clone() if size >= T else new_BT[:, -size:].roll(T % size, dims=1)
    samples_B1 = torch.arange(new_BT.shape[0], device=new_BT.device)[:, None]
    # Only the last ones: an index must not occur twice, since index_put does not order its writes.
    index = (samples_B1, position_BT[:, -size:] % size)
    ring_BS = ring_BS.to(new_BT.dtype)
    if slots == ring_BS.shape[1]:  # without a copy, so that a compiled decoder writes in place
        return ring_BS.index_put(index, new_BT[:, -size:])
    return pad_ring(ring_BS, slots).index_put_(index, new_BT[:, -size:])


def unroll_ring(ring_BS: Tensor, start_B1: Tensor, count: int) -> Tensor:
    """Return a copy [B, count, ...] of the steps before `start`, in time order; before position 0 it is arbitrary."""
    S = ring_BS.shape[1]
    samples_B1 = torch.arange(ring_BS.shape[0], device=ring_BS.device)[:, None]
    # A ring that is not full holds position p in slot p: the modulus is then that of positions before 0 alone.
    return ring_BS[samples_B1, (start_B1 - count + torch.arange(count, device=ring_BS.device)) % max(S, 1)]


def pad_ring(ring_BS: Tensor, slots: int) -> Tensor:
    """Return a copy of a ring with zeros in further slots."""
    return F.pad(ring_BS, (0, 0) * (ring_BS.dim() - 2) + (0, slots - ring_BS.shape[1]))


def num_slots(state: State | None, slots: int, num_new: int, size: int) -> int:
    """Return the number of slots after new steps, of a ring of `slots` slots now: all it has if room is reserved.

    Raises RuntimeError, through the device, where the steps exceed the reserved room.
    """
    if state is None or RESERVED not in state:
        return min(slots + num_new, size)
    if slots < size:
        fits = (state["position"] <= slots - num_new).all()
        # Neither waits for the device nor breaks the graph under torch.compile.
        assert_async(fits, f"the stream exceeds the {slots} tokens that room is reserved for")
    return slots


def reserve_rings(state: State, sizes: dict[str, int], num_steps: int | None) -> State:
    """Return a layer's state with slots for a stream of `num_steps` steps; `sizes` are the sizes of its rings."""
    slots = {name: size if num_steps is None else min(size, num_steps) for name, size in sizes.items()}
    rings = {name: pad_ring(state[name], max(slots[name], state[name].shape[1])) for name in sizes}
    if all(rings[name].shape[1] == size for name, size in sizes.items()):  # whole rings do not grow
        return state | rings
    first = next(iter(state.values()))
    return state | rings | {RESERVED: torch.ones(len(first), dtype=torch.bool, device=first.device)}


def reserved(state: State | None) -> State:
    """Return the entry of a state that says that room is reserved, to be kept in the next one."""
    return {} if state is None or RESERVED not in state else {RESERVED: state[RESERVED]}
