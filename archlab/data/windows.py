"""Windows of a token sequence: inputs, and targets one token later.

B batch, P tokens of a prefix, T time (context).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab.data.sampling import random_state
from archlab.ops.linear_cross_entropy import IGNORED


def min_length(context: int, prefix: Sequence[int] = ()) -> int:
    """Return the number of tokens that one window reads: with a prefix its first target is the first of them."""
    return context + 1 - len(prefix)


def sample_windows(
    tokens: NDArray[Any], step: int, batch_size: int, context: int, seed: int, prefix: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets [B, T] of a step: windows do not overlap, and each is visited once per epoch.

    Every window begins with `prefix`, whose tokens are no targets.
    """
    stride, unpredicted = _stride(context, prefix)
    num_windows = (len(tokens) - unpredicted) // stride
    slack = len(tokens) - unpredicted - num_windows * stride
    visits = step * batch_size + np.arange(batch_size)
    starts = np.empty(batch_size, np.int64)
    # A batch may span epochs, even several where the text is short.
    for epoch in np.unique(visits // num_windows):
        order, shift = _window_order(num_windows, slack, seed, int(epoch))
        in_epoch = visits // num_windows == epoch
        starts[in_epoch] = order[visits[in_epoch] % num_windows] * stride + shift
    read_BT = tokens[starts[:, None] + np.arange(stride + unpredicted)].astype(np.int64)
    window_BT = torch.from_numpy(np.concatenate([_repeat(prefix, batch_size), read_BT], 1))
    inputs_BT, targets_BT = window_BT[:, :-1].contiguous(), window_BT[:, 1:].contiguous()
    targets_BT[:, : max(len(prefix) - 1, 0)] = IGNORED
    return inputs_BT, targets_BT


def iter_windows(
    tokens: NDArray[Any], batch_size: int, context: int, max_tokens: int | None, prefix: Sequence[int] = ()
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets [B, T] that cover the tokens once, in order, or the first `max_tokens` targets.

    All batches have one shape, which torch.compile would otherwise compile again; targets after the end are IGNORED.
    Every window begins with `prefix`, whose tokens are no targets.
    """
    stride, unpredicted = _stride(context, prefix)
    count = max(len(tokens) - unpredicted if max_tokens is None else min(len(tokens) - unpredicted, max_tokens), 0)
    rows = min(batch_size, math.ceil(count / stride))
    for start in range(0, count, max(rows * stride, 1)):
        stop = min(start + rows * stride, count)
        targets = _pad_windows(tokens[start + unpredicted : stop + unpredicted], rows, stride, IGNORED)
        # With a prefix each window's inputs are the targets before the last one; without, they begin a token earlier.
        inputs = _pad_windows(tokens[start:stop], rows, stride, 0)[:, : context - len(prefix)]
        ignored = np.full((rows, context - stride), IGNORED)
        yield (
            torch.from_numpy(np.concatenate([_repeat(prefix, rows), inputs], 1)),
            torch.from_numpy(np.concatenate([ignored, targets], 1)),
        )


def _stride(context: int, prefix: Sequence[int]) -> tuple[int, int]:
    """Return the number of targets of a window, and that of the text's first tokens that are none."""
    return (context + 1 - len(prefix), 0) if prefix else (context, 1)


def _repeat(prefix: Sequence[int], rows: int) -> NDArray[np.int64]:
    return np.tile(np.asarray(prefix, np.int64), (rows, 1))


@lru_cache(maxsize=4)
def _window_order(num_windows: int, slack: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], int]:
    """Return an epoch's order of windows, and the offset of the first, so that windows differ between epochs."""
    random = random_state(seed, epoch)
    return random.permutation(num_windows), int(random.randint(slack + 1))


def _pad_windows(tokens: NDArray[Any], rows: int, width: int, filler: int) -> NDArray[np.int64]:
    padded = np.full(rows * width, filler, np.int64)
    padded[: len(tokens)] = tokens
    return padded.reshape(rows, width)
