"""Sequences of different lengths become one batch."""

import numpy as np
import pytest
import torch

from archlab import ArchlabError
from archlab.data.padding import encode_bytes, left_pad, pad_batch


def test_sequences_end_where_their_rows_end() -> None:
    tokens = left_pad([np.array([7], np.uint8), np.array([1, 2, 3])], 4)
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [[0, 0, 0, 7], [0, 1, 2, 3]]


def test_a_batch_is_filled_up() -> None:
    assert pad_batch(torch.tensor([[1, 2]]), 3, -100).tolist() == [[1, 2], [-100, -100], [-100, -100]]
    assert pad_batch(torch.tensor([1, 2]), 2, 0).tolist() == [1, 2]


def test_bytes_that_cannot_be_a_sample_are_named() -> None:
    assert encode_bytes(b"abc", 2, "cut", "x").tolist() == [97, 98]
    for text, problem in (
        (b"", "x: is empty"),
        (b"a\0", "x: holds byte 0, which is padding"),
        (b"abc", "x: has 3 bytes, more than the 2 of a sample; too_long: cut cuts"),
    ):
        with pytest.raises(ArchlabError, match=problem):
            encode_bytes(text, 2, "refuse", "x")
