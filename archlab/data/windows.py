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

from archlab.data.sampling import MAX_STORED, Order, permutation, random_state
from archlab.ops.linear_cross_entropy import IGNORED


def min_length(context: int, prefix: Sequence[int] = ()) -> int:
    """Return the number of tokens that one window reads: with a prefix its first target is the first of them."""
    return context + 1 - len(prefix)


def sample_windows(
    tokens: NDArray[Any], step: int, batch_size: int, context: int, seed: int, prefix: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Return the windows [B, T] of a step: those of `read_windows` from `step * batch_size` on."""
    return read_windows(tokens, range(step * batch_size, (step + 1) * batch_size), context, seed, prefix)


def read_windows(
    tokens: NDArray[Any], samples: Sequence[int], context: int, seed: int, prefix: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets [B, T] of some of a run's samples: a function of the seed and of their numbers.

    Sample n is the one that a run reads after n others, however they are divided among steps and processes. Windows do
    not overlap, and each is visited once per epoch, in an order of its own. Every window begins with `prefix`, whose
    tokens are no targets.
    """
    stride, unpredicted = stride_of(context, prefix)
    starts = window_starts(tokens, samples, context, seed, prefix)
    read_BT = tokens[starts[:, None] + np.arange(stride + unpredicted)].astype(np.int64)
    window_BT = torch.from_numpy(np.concatenate([_repeat(prefix, len(starts)), read_BT], 1))
    inputs_BT, targets_BT = window_BT[:, :-1].contiguous(), window_BT[:, 1:].contiguous()
    targets_BT[:, : max(len(prefix) - 1, 0)] = IGNORED
    return inputs_BT, targets_BT


def window_starts(
    tokens: NDArray[Any], samples: Sequence[int], context: int, seed: int, prefix: Sequence[int] = ()
) -> NDArray[np.int64]:
    """Return the places of the first tokens of some of a run's samples."""
    stride, unpredicted = stride_of(context, prefix)
    num_windows = (len(tokens) - unpredicted) // stride
    slack = len(tokens) - unpredicted - num_windows * stride
    visits = np.asarray(samples, np.int64)
    starts = np.empty(len(visits), np.int64)
    # A batch may span epochs, even several where the text is short.
    for epoch in np.unique(visits // num_windows):
        order, shift = _window_order(num_windows, slack, seed, int(epoch), isinstance(tokens, np.memmap))
        in_epoch = visits // num_windows == epoch
        starts[in_epoch] = order(visits[in_epoch] % num_windows) * stride + shift
    return starts


def iter_windows(
    tokens: NDArray[Any], batch_size: int, context: int, max_tokens: int | None, prefix: Sequence[int] = ()
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets [B, T] that cover the tokens once, in order, or the first `max_tokens` targets.

    All batches have one shape, which torch.compile would otherwise compile again; targets after the end are IGNORED.
    Every window begins with `prefix`, whose tokens are no targets.
    """
    stride, unpredicted = stride_of(context, prefix)
    count = count_targets(tokens, unpredicted, max_tokens)
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


def count_targets(tokens: NDArray[Any], unpredicted: int, max_tokens: int | None) -> int:
    """Return the number of targets of a text, or of the first of them that are asked for."""
    count = max(len(tokens) - unpredicted, 0)
    return count if max_tokens is None else min(count, max_tokens)


def stride_of(context: int, prefix: Sequence[int]) -> tuple[int, int]:
    """Return the number of targets of a window, and that of the text's first tokens that are none."""
    return (context + 1 - len(prefix), 0) if prefix else (context, 1)


def _repeat(prefix: Sequence[int], rows: int) -> NDArray[np.int64]:
    return np.tile(np.asarray(prefix, np.int64), (rows, 1))


@lru_cache(maxsize=4)
def _window_order(num_windows: int, slack: int, seed: int, epoch: int, is_mapped: bool) -> tuple[Order, int]:
    """Return an epoch's order of windows, and the offset of the first, so that windows differ between epochs."""
    random = random_state(seed, epoch)
    # The order of a text in memory is stored at any size, so that runs of earlier versions resume with the same one.
    order = permutation(random, num_windows, MAX_STORED if is_mapped else num_windows)
    return order, int(random.randint(slack + 1))


def _pad_windows(tokens: NDArray[Any], rows: int, width: int, filler: int) -> NDArray[np.int64]:
    padded = np.full(rows * width, filler, np.int64)
    padded[: len(tokens)] = tokens
    return padded.reshape(rows, width)
