"""The task of predicting the next word of a text: its bytes, or what a tokenizer makes of it.

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

from archlab import ArchlabError, did_you_mean
from archlab.data.corpus import Corpus, Source, read
from archlab.data.sampling import random_state
from archlab.data.splits import SPLITS
from archlab.data.task import IGNORED
from archlab.data.tokenizers import Tokenizer, WordTokenizer

from ._tokenized import TokenizedTask


class TextTask(TokenizedTask):
    """Predict each word of a text from those before it.

    `tokenizer` is `bytes` (byte 0 stands between documents), `words` (the `vocab_size` most frequent of the training
    text) or a tokenizer.json. Nothing is read before the first question about the text.
    """

    def __init__(
        self, source: Source, eval_bytes: int | None, tokenizer: str = "bytes", vocab_size: int | None = None
    ) -> None:
        if (tokenizer == "words") != (vocab_size is not None):
            raise ValueError(f"vocab_size {vocab_size} and tokenizer {tokenizer!r}: words need a number, others none")
        self.source, self.eval_bytes, self.tokenizer_name, self.num_words = source, eval_bytes, tokenizer, vocab_size

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """How many words there are."""
        return self.tokenizer.vocab_size if self.num_words is None else self.num_words

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into words, read when first asked for."""
        if self.num_words is not None:
            return _words(self.source, self.eval_bytes, self.num_words)
        return super().tokenizer

    @property
    def corpus(self) -> Corpus:
        """The text, read when first asked for; it must be UTF-8 unless its bytes are learned."""
        return read(self.source, self.eval_bytes, self.tokenizer_name != "bytes")

    def check(self, context: int = 1) -> None:
        """Raise ArchlabError unless the text can be read and every split holds a window of `context`."""
        for split in SPLITS:
            self._windows(split, context)

    def describe(self) -> dict[str, Any]:
        """Return the corpus as data: bytes of each split as used and as available, documents, SHA-256."""
        corpus = self.corpus
        used = {split: len(self.text(split)) for split in SPLITS}
        facts = {"documents": corpus.documents, "split_by": corpus.split_by, "sha256": corpus.sha256}
        if self.tokenizer_name != "bytes":
            facts |= {"tokenizer": self.tokenizer_name, "words": {split: self.length(split) for split in SPLITS}}
        return {"source": str(self.source), "bytes": used, "bytes_available": corpus.available, **facts}

    def length(self, split: str) -> int:
        """Return the number of words of a split."""
        return len(self._tokens(split))

    def text(self, split: str) -> bytes:
        """Return a split as it is, for comparison with compressors."""
        if split not in SPLITS:
            raise ArchlabError(f"no split {split!r}{did_you_mean(split, SPLITS)}")
        return self.corpus.texts[split]

    def bytes_per_token(self, split: str) -> float:
        """Return how many bytes of a split a word stands for, on average."""
        return len(self.text(split)) / self.length(split)

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

    def _tokens(self, split: str) -> NDArray[Any]:
        self.text(split)  # which knows the splits
        return _tokenized(self.source, self.eval_bytes, self.tokenizer_name, self.num_words, split)

    def _windows(self, split: str, context: int) -> int:
        length, unit = self.length(split), "bytes" if self.tokenizer_name == "bytes" else "words"
        if length <= context:
            need = f"a window of context {context} and its last target need {context + 1}"
            raise ArchlabError(f"{self.source}: the {split} split has {length} {unit}; {need}")
        return (length - 1) // context


@lru_cache(maxsize=4)
def _words(source: Source, eval_bytes: int | None, vocab_size: int) -> WordTokenizer:
    return WordTokenizer(read(source, eval_bytes, True).texts["train"], vocab_size)


@lru_cache(maxsize=12)
def _tokenized(
    source: Source, eval_bytes: int | None, tokenizer: str, vocab_size: int | None, split: str
) -> NDArray[Any]:
    task = TextTask(source, eval_bytes, tokenizer, vocab_size)
    return task.tokenizer.encode_corpus(task.text(split))


@lru_cache(maxsize=4)
def _order(windows: int, slack: int, seed: int, epoch: int) -> tuple[NDArray[np.int64], int]:
    random = random_state(seed, epoch)
    return random.permutation(windows), int(random.randint(slack + 1))


def _padded(tokens: NDArray[Any], rows: int, context: int, filler: int) -> Tensor:
    padded = np.full(rows * context, filler, np.int64)
    padded[: len(tokens)] = tokens
    return torch.from_numpy(padded).view(rows, context)
