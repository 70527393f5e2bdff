"""Documents apart from each other: a row of a batch holds a part of one, beside rows of about its length.

A window of a corpus holds the end of one document, others whole, and the start of a last one. Each is a row of its own
here, so that no state, position, statistic or attention of any layer reaches from one into the next. Rows are padded at
their ends, which a causal model does not see. N rows, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from archlab.data.windows import count_targets, stride_of, window_starts
from archlab.ops.linear_cross_entropy import IGNORED

Document: TypeAlias = tuple[Tensor, Tensor]  # its inputs and targets, each [tokens], or [N, L] of several
NUM_GROUPS = 8  # of lengths: with four up to half of a batch may be padding, and each costs the calls of a pass
_NUM_EDGES = 64


def read_documents(
    tokens: NDArray[Any],
    ends: NDArray[Any],
    samples: Sequence[int],
    context: int,
    seed: int,
    prefix: Sequence[int] = (),
) -> list[Document]:
    """Return the parts of documents in the windows that `archlab.data.windows.read_windows` reads, each by itself.

    `ends` are the places behind the documents' last tokens. Each part begins with `prefix`; the first token of a
    document is a target only after one.
    """
    stride, unpredicted = stride_of(context, prefix)
    starts = window_starts(tokens, samples, context, seed, prefix)
    return [part for start in starts for part in _cut(tokens, ends, start, start + stride + unpredicted, prefix)]


def iter_documents(
    tokens: NDArray[Any],
    ends: NDArray[Any],
    batch_size: int,
    context: int,
    max_tokens: int | None,
    prefix: Sequence[int] = (),
) -> Iterator[list[Document]]:
    """Yield the parts of documents in the windows that cover the tokens once, so many windows at a time."""
    stride, unpredicted = stride_of(context, prefix)
    count = count_targets(tokens, unpredicted, max_tokens)
    for first in range(0, count, batch_size * stride):
        starts = range(first, min(first + batch_size * stride, count), stride)
        windows = ((start, min(start + stride, count) + unpredicted) for start in starts)
        yield [part for start, stop in windows for part in _cut(tokens, ends, start, stop, prefix)]


def _cut(tokens: NDArray[Any], ends: NDArray[Any], start: int, stop: int, prefix: Sequence[int]) -> Iterator[Document]:
    """Yield the parts of documents between two places, but for those that have no target."""
    within = ends[np.searchsorted(ends, start, "right") : np.searchsorted(ends, stop, "left")]
    for first, last in pairwise([start, *map(int, within), stop]):
        row = torch.from_numpy(np.concatenate([np.asarray(prefix, np.int64), tokens[first:last].astype(np.int64)]))
        targets = row[1:].clone()
        targets[: max(len(prefix) - 1, 0)] = IGNORED
        if len(row) > max(len(prefix), 1):
            yield row[:-1], targets


def group_by_length(documents: Iterable[Document], num_groups: int = NUM_GROUPS) -> list[Document]:
    """Return batches [N, L] of all documents, at most `num_groups`, chosen so that there is little padding."""
    ordered = sorted(documents, key=lambda document: len(document[0]), reverse=True)
    if not ordered:
        return []
    edges = _best_edges(np.array([len(inputs) for inputs, _ in ordered]), num_groups)
    return [pad_documents(ordered[first:last]) for first, last in pairwise(edges)]


def pad_documents(documents: Sequence[Document]) -> Document:
    """Return inputs and targets [N, L] of documents, with padding that is not a target."""
    inputs, targets = zip(*documents, strict=True)
    padded = pad_sequence(list(targets), batch_first=True, padding_value=IGNORED)
    return pad_sequence(list(inputs), batch_first=True), padded


def _best_edges(lengths: NDArray[np.int64], num_groups: int) -> list[int]:
    """Return where to cut rows of falling lengths so that groups, as long as their first rows, have the fewest tokens.

    A shortest path over places: `cost[i, j]` is the size of one group from place i to place j.
    """
    totals = np.cumsum(lengths)
    even = np.searchsorted(totals, np.linspace(0, totals[-1], _NUM_EDGES))
    places = np.unique([0, *even, len(lengths)])
    rows = places[None, :] - places[:, None]
    longest = lengths[np.minimum(places, len(lengths) - 1)]
    cost = np.where(rows >= 0, rows * longest[:, None], np.inf)
    best, earlier = cost[0], list[NDArray[np.intp]]()
    for _ in range(num_groups - 1):
        paths = best[:, None] + cost
        best = paths.min(0)
        earlier.append(paths.argmin(0))
    chosen = [len(places) - 1]
    for step in reversed(earlier):
        chosen.append(int(step[chosen[-1]]))
    return [int(places[index]) for index in sorted({0, *chosen})]
