"""Windows of a token sequence: inputs, and targets one token later.

B batch, T time (context).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab.data.sampling import random_state
from archlab.ops.linear_cross_entropy import IGNORED


def sample_windows(tokens: NDArray[Any], step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets [B, T] of a step: windows do not overlap, and each is visited once per epoch."""
    num_windows = (len(tokens) - 1) // context
    slack = len(tokens) - 1 - num_windows * context
    visits = step * batch_size + np.arange(batch_size)
    starts = np.empty(batch_size, np.int64)
    # A batch may span epochs, even several where the text is short.
    for epoch in np.unique(visits // num_windows):
        order, shift = _window_order(num_windows, slack, seed, int(epoch))
        in_epoch = visits // num_windows == epoch
        starts[in_epoch] = order[visits[in_epoch] % num_windows] * context + shift
    window_BT = torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))
    return window_BT[:, :-1].contiguous(), window_BT[:, 1:].contiguous()


def iter_windows(
    tokens: NDArray[Any], batch_size: int, context: int, max_tokens: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets [B, T] that cover the tokens once, in order, or the first `max_tokens` targets.

    All batches have one shape, which torch.compile would otherwise compile again; targets after the end are IGNORED.
    """
    count = max(len(tokens) - 1 if max_tokens is None else min(len(tokens) - 1, max_tokens), 0)
    rows = min(batch_size, math.ceil(count / context))
    for start in range(0, count, max(rows * context, 1)):
        stop = min(start + rows * context, count)
        inputs_BT = _pad_windows(tokens[start:stop], rows, context, 0)
        yield inputs_BT, _pad_windows(tokens[start + 1 : stop + 1], rows, context, IGNORED)


@lru_cache(maxsize=4)
def _window_order(num_windows: int, slack: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], int]:
    """Return an epoch's order of windows, and the offset of the first, so that windows differ between epochs."""
    random = random_state(seed, epoch)
    return random.permutation(num_windows), int(random.randint(slack + 1))


def _pad_windows(tokens: NDArray[Any], rows: int, context: int, filler: int) -> Tensor:
    padded = np.full(rows * context, filler, np.int64)
    padded[: len(tokens)] = tokens
    return torch.from_numpy(padded).view(rows, context)
