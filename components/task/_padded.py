"""Texts of different lengths in rows of one.

B batch, T time (context).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError
from archlab.data.splits import Overflow


def padded(texts: Sequence[NDArray[Any]], context: int) -> Tensor:
    """Return texts as words [B, T], each at the end of its row, behind words 0."""
    words_BT = torch.zeros(len(texts), context, dtype=torch.int64)
    for row, text in zip(words_BT, texts, strict=True):
        row[context - len(text) :] = torch.from_numpy(text.astype(np.int64))
    return words_BT


def fitted(text: bytes, room: int, too_long: Overflow, name: str) -> NDArray[np.uint8]:
    """Return the bytes of a text, its first `room` ones where `too_long` is cut.

    Raises ArchlabError naming a text that is empty, holds byte 0, which is padding, or is longer where this is refused.
    """
    if not text or b"\0" in text:
        raise ArchlabError(f"{name}: {'holds byte 0, which is padding' if text else 'is empty'}")
    if len(text) > room and too_long == "refuse":
        raise ArchlabError(
            f"{name}: has {len(text)} bytes, more than the {room} of a sample; too_long: cut would cut it"
        )
    return np.frombuffer(text[:room], np.uint8)
