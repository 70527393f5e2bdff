"""The task of predicting the next byte of a text.

B batch, T time (context).
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archlab.errors import ArchlabError, suggest

from ._base import IGNORED, SPLITS, Task
from ._corpus import Corpus, Source, read


class ByteTask(Task):
    """Predict each byte from those before it; byte 0 stands between documents.

    Nothing is read before the first question about the text.
    """

    vocab_size = 256
    predicts_next = True
    metrics = ("loss", "bpb")

    def __init__(self, source: Source, eval_bytes: int | None) -> None:
        self.source, self.eval_bytes = source, eval_bytes

    @property
    def corpus(self) -> Corpus:
        """The text, read when first asked for."""
        return read(self.source, self.eval_bytes)

    def check(self, context: int = 1) -> None:
        """Raise ArchlabError unless the text can be read and every split holds a window of `context`."""
        for split in SPLITS:
            self._windows(split, context)

    def describe(self) -> dict[str, Any]:
        """Return the corpus as data: bytes of each split as used and as available, files, SHA-256."""
        corpus = self.corpus
        used = {split: self.length(split) for split in SPLITS}
        facts = {"files": corpus.files, "split_by": corpus.split_by, "sha256": corpus.sha256}
        return {"source": str(self.source), "bytes": used, "bytes_available": corpus.available, **facts}

    def length(self, split: str) -> int:
        """Return the number of tokens of a split."""
        return len(self._tokens(split))

    def text(self, split: str) -> bytes:
        """Return a split as it is, for comparison with compressors."""
        return self._tokens(split).tobytes()

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets [B, T] of a step: a function of the arguments and nothing else.

        Windows do not overlap; each is visited once an epoch, in an order of that epoch's own.
        """
        tokens, windows = self._tokens(split), self._windows(split, context)
        slack = len(tokens) - 1 - windows * context
        visits = step * batch_size + np.arange(batch_size)
        starts = np.empty(batch_size, np.int64)
        for epoch in np.unique(visits // windows):
            order, shift = _order(windows, slack, seed, int(epoch))
            here = visits // windows == epoch
            starts[here] = order[visits[here] % windows] * context + shift
        window_BT = torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))
        return window_BT[:, :-1].contiguous(), window_BT[:, 1:].contiguous()

    def eval_batches(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets [B, T] that cover a split once, in order, or its first `max_tokens` targets.

        All batches have one shape; targets are -100 where the text has ended.
        """
        tokens = self._tokens(split)
        count = max(len(tokens) - 1 if max_tokens is None else min(len(tokens) - 1, max_tokens), 0)
        rows = min(batch_size, math.ceil(count / context))
        for start in range(0, count, max(rows * context, 1)):
            stop = min(start + rows * context, count)
            yield (
                _padded(tokens[start:stop], rows, context, 0),
                _padded(tokens[start + 1 : stop + 1], rows, context, IGNORED),
            )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return list(text.encode("utf-8", "surrogateescape"))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, with U+FFFD for what is not UTF-8."""
        return _as_bytes(tokens).decode(errors="replace")

    def decoder(self) -> Decoder:
        """Return a decoder for tokens that arrive one at a time."""
        return Decoder()

    def _tokens(self, split: str) -> NDArray[np.uint8]:
        if split not in SPLITS:
            raise ArchlabError(f"no split {split!r}{suggest(split, SPLITS)}")
        return self.corpus.tokens[split]

    def _windows(self, split: str, context: int) -> int:
        length = self.length(split)
        if length <= context:
            need = f"a window of context {context} and its last target need {context + 1}"
            raise ArchlabError(f"{self.source}: the {split} split has {length} bytes; {need}")
        return (length - 1) // context


class Decoder:
    """Turns tokens into text as they come; a character appears with its last byte."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __call__(self, token: int) -> str:
        return self._decoder.decode(_as_bytes([token]))

    def finish(self) -> str:
        """Return U+FFFD where the tokens end within a character."""
        return self._decoder.decode(b"", final=True)


@lru_cache(maxsize=4)
def _order(windows: int, slack: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], int]:
    # RandomState, because its stream is the same in every version of numpy.
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch])))
    return random.permutation(windows), int(random.randint(slack + 1))


def _padded(tokens: NDArray[np.uint8], rows: int, context: int, filler: int) -> Tensor:
    padded = np.full(rows * context, filler, np.int64)
    padded[: len(tokens)] = tokens
    return torch.from_numpy(padded).view(rows, context)


def _as_bytes(tokens: Sequence[int]) -> bytes:
    # 0xFF occurs in no UTF-8 text, so a token beyond the bytes, from a wider model, shows as U+FFFD.
    return bytes(token if token < ByteTask.vocab_size else 0xFF for token in tokens)
