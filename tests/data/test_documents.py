"""Documents apart: every part of one in a row of its own, and little padding."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from archlab.data.documents import group_by_length, iter_documents, pad_documents, read_documents
from archlab.data.windows import iter_windows, read_windows
from archlab.ops.linear_cross_entropy import IGNORED

TOKENS = np.arange(100, dtype=np.uint16)
ENDS = np.array([3, 4, 4, 20, 41, 90, 100])  # a document of one token, and an empty one


def of_lengths(*lengths: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.full((length,), length), torch.full((length,), length)) for length in lengths]


def test_documents_of_samples_are_their_windows_cut() -> None:
    for sample in range(20):
        [inputs], [targets] = read_windows(TOKENS, [sample], 10, 7)
        documents = read_documents(TOKENS, ENDS, [sample], 10, 7)
        kept = [target.item() for target in targets if target.item() not in ENDS]
        assert [target for _, each in documents for target in each.tolist()] == kept
        for own, _ in documents:
            assert set(own.tolist()) <= set(inputs.tolist())
            # What it starts with, and nothing later, may be the first token of a document.
            assert not any(token in ENDS for token in own[1:].tolist())


def test_after_a_prefix_the_first_token_of_a_document_is_a_target() -> None:
    documents = read_documents(TOKENS, ENDS, range(10), 11, 7, prefix=[98, 99])
    for inputs, targets in documents:
        assert inputs[:2].tolist() == [98, 99]
        assert targets[0] == IGNORED
        assert targets[1:].tolist() == list(range(int(targets[1]), int(targets[1]) + len(targets) - 1))
    assert sorted(token for _, targets in documents for token in targets[1:].tolist()) == list(range(100))


@pytest.mark.parametrize("max_tokens", [None, 37])
def test_evaluation_covers_the_documents_once(max_tokens: int | None) -> None:
    whole = [pair[1] for pair in iter_windows(TOKENS, 2, 16, max_tokens)]
    batches = [*iter_documents(TOKENS, ENDS, 2, 16, max_tokens)]
    expected = [token for token in torch.cat(whole).flatten().tolist() if token != IGNORED and token not in ENDS]
    assert [token for batch in batches for _, targets in batch for token in targets.tolist()] == expected
    assert len(batches) == len(whole)
    assert [*iter_documents(TOKENS[:1], ENDS, 2, 16, None)] == []


def test_groups_have_the_least_padding() -> None:
    lengths = [16, 15, 9, 8, 8, 3, 3, 1, 1, 1]
    groups = group_by_length(of_lengths(*reversed(lengths)), 3)
    assert sorted(length for inputs, _ in groups for length in inputs[:, 0].tolist()) == sorted(lengths)
    assert all((inputs != 0).eq(targets != IGNORED).all() for inputs, targets in groups)
    cuts = ((0, *cut, 10) for cut in itertools.combinations(range(1, 10), 2))
    best = min(sum((b - a) * lengths[a] for a, b in itertools.pairwise(cut)) for cut in cuts)
    assert sum(inputs.numel() for inputs, _ in groups) == best


def test_groups_of_many_documents_are_near_the_best() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 1.2, 3000).astype(int).clip(1, 4096)
    groups = group_by_length(of_lengths(*lengths.tolist()))
    assert len(groups) == 8
    assert sum(inputs.numel() for inputs, _ in groups) < 1.4 * lengths.sum()


def test_documents_of_one_length_are_one_group() -> None:
    [(inputs, targets)] = group_by_length(of_lengths(5, 5, 5))
    assert inputs.shape == targets.shape == (3, 5)
    assert group_by_length([]) == []
    assert pad_documents(of_lengths(1))[0].tolist() == [[1]]
