"""The peak of a device that has a model's blocks one at a time, and copies for a checkpoint."""

from __future__ import annotations

import pytest
from conftest import Tiny

from archlab.config.parallel import Layout
from archlab.modeling.block_memory import BlockMemory, StepMemory, trace_memory
from archlab.modeling.build import validate
from archlab.planning.memory import staged_bytes
from archlab.planning.sharded_memory import peak_moment

BLOCKS = (BlockMemory(10, 1, 40), BlockMemory(30, 2, 60), BlockMemory(20, 3, 70))
MEMORY = StepMemory(BLOCKS, ends=50, end_bytes=4, saved=12)


def test_a_block_goes_back_beside_the_one_fetched_ahead_and_the_gradients_on_their_way() -> None:
    moment = peak_moment(MEMORY, 1, pieces=1, again=False)
    # The last block has no other's gradients beside it: 70 + 4 + 20 + 30; the second has: 60 + 4 + 30 + 10 + 20, and 20
    # that are divided by then; the first, at the end of the backward pass, 40 + 4 + 10 + 30 and 50.
    assert (moment.alive, moment.gathered, moment.reduced) == (60, 64, 20)
    assert moment.total(4) == 60 + 64 + 5


def test_gradients_of_earlier_micro_batches_are_there_throughout() -> None:
    moment = peak_moment(MEMORY, 1, pieces=1, again=True)
    assert moment.reduced == 64


def test_pieces_wait_and_none_but_the_first_fetches_ahead() -> None:
    first = peak_moment(MEMORY, 1000, pieces=3, again=False)
    assert (first.alive, first.gathered) == (70 + 2 * 12, 54)
    # Of a device that has all gradients, those of the first piece weigh more than what another one waits with.
    later = peak_moment(MEMORY, 1, pieces=3, again=False)
    assert (later.alive, later.gathered, later.reduced) == (60 + 12, 54, 64)


@pytest.mark.slow
def test_no_block_leaves_its_casts_where_weights_are_fetched_anew(tiny: Tiny) -> None:
    words = ("train.precision=bfloat16", "train.checkpoint_activations=true", "train.context=4", "train.batch_size=1")
    experiment = tiny("model.layers[0].repeat=3", *words)
    first, *_, last = trace_memory(experiment, validate(experiment)).blocks
    # In a run that keeps them each block has added its weights in bfloat16 by then.
    assert last.forward - first.forward < first.weight_bytes / 4


@pytest.mark.slow
def test_blocks_that_are_counted_by_another_one_are_as_if_they_were_executed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tiny("model.layers[0].repeat=5", "train.precision=float32")
    counted = trace_memory(experiment, validate(experiment))
    monkeypatch.setattr("archlab.modeling.repeated_blocks._structure", id)  # no block is like another
    executed = trace_memory(experiment, validate(experiment))
    assert len(counted.blocks) == 5
    assert counted.end_bytes == executed.end_bytes
    for one, other in zip(counted.blocks, executed.blocks, strict=True):
        assert one.weight_bytes == other.weight_bytes
        assert one.forward == pytest.approx(other.forward, rel=0.01)
        assert one.backward == pytest.approx(other.backward, rel=0.01)


def test_ranks_with_the_same_parts_take_turns_to_copy_them() -> None:
    assert staged_bytes(1200, Layout(shard=4)) == 1200
    assert staged_bytes(1200, Layout(tensor=2, replicate=3, chunk=2)) == 200
    assert staged_bytes(1200, Layout(replicate=4)) == 0  # the first writes, and the others wait
