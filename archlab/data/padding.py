"""Sequences of different lengths as one padded batch.

B batch, T time (context).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab.data.splits import Overflow
from archlab.errors import ArchlabError


def left_pad(sequences: Sequence[NDArray[Any]], context: int) -> Tensor:
    """Return sequences as tokens [B, T], padded with tokens 0 on the left."""
    # On the left, so that the last position, which a causal model reads after all others, is a token of the sequence.
    tokens_BT = torch.zeros(len(sequences), context, dtype=torch.int64)
    for row, sequence in zip(tokens_BT, sequences, strict=True):
        row[context - len(sequence) :] = torch.from_numpy(sequence.astype(np.int64))
    return tokens_BT


def pad_batch(values: Tensor, batch_size: int, filler: int) -> Tensor:
    """Return a batch filled up to `batch_size` samples that hold nothing but a filler."""
    missing = values.new_full((batch_size - len(values), *values.shape[1:]), filler)
    return torch.cat((values, missing)) if len(missing) else values


def encode_bytes(text: bytes, max_bytes: int, too_long: Overflow, name: str) -> NDArray[np.uint8]:
    """Return the bytes of a text as tokens, the first `max_bytes` of them if `too_long` is cut.

    Raises ArchlabError naming a text that is empty, holds byte 0, which is padding, or is too long under `refuse`.
    """
    if not text or b"\0" in text:
        raise ArchlabError(f"{name}: {'holds byte 0, which is padding' if text else 'is empty'}")
    if len(text) > max_bytes and too_long == "refuse":
        raise ArchlabError(f"{name}: has {len(text)} bytes, more than the {max_bytes} of a sample; too_long: cut cuts")
    return np.frombuffer(text[:max_bytes], np.uint8)
