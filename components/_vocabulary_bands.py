"""A vocabulary in bands, from its frequent words to its rare ones, whose vectors are the shorter the rarer they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Band:
    """Tokens from `first` on, `size` of them, with vectors of `width` features."""

    first: int
    size: int
    width: int


def split_vocabulary(vocab_size: int, dim: int, cutoffs: Sequence[int], factor: int) -> list[Band]:
    """Return the bands that begin at 0 and at each cutoff; each is `factor` times as narrow as the one before.

    Raises ValueError where cutoffs do not rise within the vocabulary, or where a band would have no feature.
    """
    edges = [0, *cutoffs, vocab_size]
    if any(low >= high for low, high in pairwise(edges)):
        raise ValueError(f"cutoffs {list(cutoffs)} do not rise from above 0 to below vocab_size {vocab_size}")
    widths = [dim // factor**index for index in range(len(edges) - 1)]
    if not widths[-1]:
        raise ValueError(f"band {len(widths) - 1} has dim {dim} / factor {factor}^{len(widths) - 1} features: none")
    return [Band(low, high - low, width) for (low, high), width in zip(pairwise(edges), widths, strict=True)]
