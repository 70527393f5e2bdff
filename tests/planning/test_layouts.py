from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from archlab import ConfigError
from archlab.config.experiment import Experiment, load
from archlab.config.parallel import Layout
from archlab.modeling.block_memory import BlockMemory, StepMemory
from archlab.modeling.step_trace import OpCost, StepTrace
from archlab.planning.communication import Links
from archlab.planning.device_files import load_device
from archlab.planning.layouts import iter_layouts, propose, require_divisible
from archlab.planning.sharded_step import Setting, shard_step
from archlab.planning.workload import Workload

GB = 10**9
WEIGHTS = 28 * GB  # of 7 G parameters


class FakeWorkload:
    """A model of 7 G parameters: 2 GB of casts, and 5 GB of activations for each sequence."""

    def divides(self, tensor: int) -> bool:
        return tensor <= 4

    def state_bytes(self, share: float) -> int:
        return round(share * 10**6)

    def memory_at(self, sequences: float, tensor: int = 1) -> StepMemory:
        """Four blocks and ends of which a tenth is not divided, and 4 GB for each sequence, 1 GB of each block."""
        block = WEIGHTS * (tensor + 9) // (10 * tensor) // 5
        sizes = [round(GB * sequences * number) for number in range(1, 5)]
        blocks = tuple(BlockMemory(block, size, block + size) for size in sizes)
        return StepMemory(blocks, round(5 * GB * sequences), block, round(4 * GB * sequences))

    def at(self, sequences: float, tensor: int = 1) -> StepTrace:
        """Half of the activations and a tenth of the weights are not divided."""
        weights = WEIGHTS * (tensor + 9) // (10 * tensor)
        activations = round((2 * GB + 5 * GB * sequences) * (tensor + 1) / (2 * tensor))
        ops = (
            OpCost("aten.mm", "forward", torch.bfloat16, 1, round(10**14 * sequences) // tensor, GB),
            OpCost("archlab.rank_reduce", "forward", torch.bfloat16, 64, 0, 10 * GB * (tensor > 1)),
            OpCost("adamw", "optimizer", torch.float32, 1, 0, 7 * weights),
        )
        return StepTrace(
            ops=ops,
            params_by_part={"all": 7 * GB},
            params=7 * GB,
            params_non_embedding=7 * GB,
            params_active=7 * GB,
            weight_bytes=weights,
            gradient_bytes=weights,
            optimizer_bytes=2 * weights,
            activation_bytes=activations,
            largest_block_bytes=GB // tensor,
            called_bytes=weights,
            peak_bytes=4 * weights + activations,
            tokens=round(4096 * sequences),
            flops_per_token=3 * 10**10,
            recomputed_flops_per_token=0,
            flops_per_token_forward=10**10,
            state_bytes=10**6,
            max_state_bytes=10**6,
        )


def setting(device: str = "a100-80g", batch_size: int = 2, accumulate: int = 16, **options: Any) -> Setting:
    train = [f"train.batch_size={batch_size}", f"train.accumulate={accumulate}", "train.context=4096"]
    experiment: Experiment = load("megalodon_tiny", [*train, "train.precision=bfloat16"])
    values = {"compiled": True, "can_chunk": True, **options}
    return Setting(experiment, cast(Workload, FakeWorkload()), load_device(device), **values)


@pytest.mark.slow
def test_every_layout_multiplies_to_the_devices_and_divides_sequences_and_context() -> None:
    layouts = list(iter_layouts(setting(), 64))
    assert len(layouts) == len(set(layouts)) > 20
    for layout in layouts:
        assert layout.devices == 64
        assert 32 % layout.data == 0
        assert layout.tensor <= 4
        require_divisible(setting(), layout)


def test_weights_gradients_and_moments_are_divided_and_activations_by_what_divides_a_sequence() -> None:
    memory = shard_step(setting(), Layout(shard=8, tensor=2, chunk=2)).memory
    own = WEIGHTS * 11 // 20
    assert (memory.weights, memory.gradients, memory.optimizer) == (own // 8, own // 8, own // 4)
    # Two pieces of one sequence each, half of it here: what one saves, and of the other the third block going back.
    # At the cut the states of two sequences, after half of a context, three times each.
    block = own // 5
    assert memory.activations == 2 * GB + (block + 3 * GB // 2) + 2 * 1_500_000 // 2
    # The ends, the block, the one before it on its way here, and the gradients of the one after on theirs.
    assert memory.gathered == 4 * block
    assert memory.communication > 0
    assert memory.total == sum(
        (memory.weights, memory.gradients, memory.optimizer, memory.activations)
    ) + memory.gathered + round(memory.context + memory.communication + memory.allocator)


def test_the_layout_only_divides_the_sequences_of_an_update() -> None:
    for layout, expected in ((Layout(), (2, 16)), (Layout(shard=16), (2, 1)), (Layout(shard=32), (1, 1))):
        step = shard_step(setting(), layout)
        assert (step.micro_batch, step.accumulate) == expected


def test_the_proposal_is_the_fastest_layout_that_fits() -> None:
    work = setting()
    best = propose(work, 32)
    assert best.fits
    assert best.step.memory.total <= work.device.memory
    for layout in iter_layouts(work, 32):
        other = shard_step(work, layout)
        assert other.memory.total > work.device.memory or other.time.total >= best.step.time.total * 0.99


def test_where_nothing_fits_the_proposal_says_how_many_devices_would_do() -> None:
    work = setting()
    proposal = propose(work, 1)
    assert not proposal.fits
    assert proposal.step.layout == Layout()
    assert proposal.enough is not None
    assert propose(work, proposal.enough).fits
    assert not propose(work, proposal.enough // 2).fits


def test_where_no_number_of_devices_would_do_none_is_proposed() -> None:
    # One sequence on at most four devices, whose weights, gradients and moments take 28 GB each.
    proposal = propose(setting("a100-40g", batch_size=1, accumulate=1, can_chunk=False), 1)
    assert not proposal.fits
    assert proposal.enough is None


def test_devices_that_divide_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="no layout of 7 devices divides the 32 sequences of an update"):
        propose(setting(), 7)
    with pytest.raises(ConfigError, match=r"replicate 3 \* shard 1 does not divide the 32 sequences of an update"):
        require_divisible(setting(), Layout(replicate=3))
    with pytest.raises(ConfigError, match=r"parallel\.chunk: 3 does not divide train\.context, 4096"):
        require_divisible(setting(), Layout(chunk=3))


def test_a_sequence_that_cannot_be_cut_is_not() -> None:
    assert all(layout.chunk == 1 for layout in iter_layouts(setting(can_chunk=False), 16))


def test_a_collective_inside_a_node_is_faster_than_across_nodes() -> None:
    device = load_device("h100")
    links = Links(Layout(replicate=4, shard=8), device)
    assert links.bandwidth("shard") == device.links.node * device.efficiency.links
    assert links.bandwidth("replicate") == device.links.network * device.efficiency.links
    across = Links(Layout(shard=32), device)  # whose rings enter each node by its eight network cards
    assert across.bandwidth("shard") == 8 * device.links.network * device.efficiency.links
    assert links.gather_seconds("tensor", 1e9) == 0


def test_waiting_for_links_is_what_computing_does_not_hide() -> None:
    fast = setting()
    slow_links = replace(fast.device, links=replace(fast.device.links, node=1e9, network=1e9))
    slow = replace(fast, device=slow_links)
    layout = Layout(shard=16)
    assert shard_step(slow, layout).time.communication > 10 * shard_step(fast, layout).time.communication
    assert shard_step(fast, Layout()).time.communication == 0


def test_the_tensor_axis_waits_for_sums_of_activations_and_of_the_gradients_that_all_have() -> None:
    work, layout = setting(), Layout(tensor=2)
    seconds, links = shard_step(work, layout).time, Links(layout, work.device)
    waiting = 16 * links.reduce_seconds("tensor", 5 * GB) + links.reduce_seconds("tensor", WEIGHTS / 10)
    assert seconds.communication == pytest.approx(waiting)
    assert seconds.compute == pytest.approx(shard_step(work, Layout()).time.compute / 2)
