"""The samples of an update are the same, however they are divided among processes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from archlab.components.task.digits import Digits
from archlab.components.task.recall import Recall
from archlab.components.task.text import Text
from archlab.data import sampling, windows
from archlab.data.sampling import permutation, random_state
from archlab.data.task import Task


class Parity(Task):
    """A user's task, which has batches alone."""

    vocab_size = 2

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed * 1000 + step)
        inputs = torch.randint(2, (batch_size, context), generator=generator)
        return inputs, inputs.cumsum(1) % 2

    def eval_batches(self, *_: object) -> object:  # type: ignore[override]
        return iter(())


@pytest.mark.parametrize("name", ["text", "recall", "digits", "own"])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_together_read_the_update_of_one_process(name: str, world: int, text: Path) -> None:
    tasks = {"text": lambda: Text(path=str(text)), "recall": Recall, "digits": Digits, "own": Parity}
    task, context = tasks[name](), 64
    batch_size, accumulate, update = 2, 3, 17
    own = [task.batch("train", update * accumulate + micro, batch_size, context, 5) for micro in range(accumulate)]
    whole = [torch.cat(each) for each in zip(*own, strict=True)]
    size = batch_size * accumulate
    edges = [update * size + rank * size // world for rank in range(world + 1)]
    shares = list(itertools.pairwise(edges))
    parts = [task.rows("train", *share, batch_size=batch_size, context=context, seed=5) for share in shares]
    for expected, found in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(found), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000, 4097])
def test_an_order_without_memory_is_a_permutation(size: int) -> None:
    order = permutation(random_state(3, 1), size, 0)
    visited = order(np.arange(size))
    assert sorted(visited.tolist()) == list(range(size))
    assert np.array_equal(order(np.arange(size)[::-1]), visited[::-1])  # each by itself
    if size > 64:
        other = permutation(random_state(3, 2), size, 0)(np.arange(size))
        assert (other != visited).mean() > 0.9
        assert abs(np.corrcoef(np.arange(size), visited)[0, 1]) < 0.1


def test_the_order_of_trillions_of_windows_is_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    order = permutation(random_state(0, 0), 2**40 + 12345, sampling.MAX_STORED)
    visited = order(np.array([0, 1, 2**40]))
    assert len(set(visited.tolist())) == 3
    assert visited.max() < 2**40 + 12345


def test_a_mapped_corpus_has_the_order_of_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.arange(1000, dtype="<u2")
    tokens.tofile(tmp_path / "tokens")
    mapped = np.memmap(tmp_path / "tokens", "<u2", "r")
    args = (range(95, 300), 10, 7)
    assert torch.equal(windows.read_windows(mapped, *args)[0], windows.read_windows(tokens, *args)[0])
    monkeypatch.setattr(windows, "MAX_STORED", 50)
    windows._window_order.cache_clear()
    inputs, _ = windows.read_windows(mapped, range(99), 10, 7)
    windows._window_order.cache_clear()
    assert len(set(inputs[:, 0].tolist())) == 99  # an epoch visits each window once
