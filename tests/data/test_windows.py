"""Windows cover a sequence: once per epoch in training, once and in order in evaluation."""

import numpy as np
import torch

from archlab.data.windows import iter_windows, sample_windows

TOKENS = np.arange(1000, dtype=np.uint16)


def test_an_epoch_covers_every_token_once() -> None:
    inputs, targets = sample_windows(TOKENS[:961], 0, 96, 10, 7)
    assert torch.equal(targets, inputs + 1)
    assert sorted(inputs.flatten().tolist()) == list(range(960))


def test_a_batch_may_span_epochs() -> None:
    whole = sample_windows(TOKENS, 0, 250, 10, 7)[0]
    parts = [sample_windows(TOKENS, step, 50, 10, 7)[0] for step in range(5)]
    assert torch.equal(torch.cat(parts), whole)


def test_evaluation_ends_with_ignored_targets() -> None:
    (inputs, targets), (last, padded) = iter_windows(TOKENS[:8], 2, 2, None)
    assert inputs.tolist() == [[0, 1], [2, 3]]
    assert targets.tolist() == [[1, 2], [3, 4]]
    assert last.tolist() == [[4, 5], [6, 0]]
    assert padded.tolist() == [[5, 6], [7, -100]]
    assert [pair[1].tolist() for pair in iter_windows(TOKENS, 4, 2, 3)] == [[[1, 2], [3, -100]]]
    assert list(iter_windows(TOKENS[:1], 2, 2, None)) == []
