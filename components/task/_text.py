"""Next-token prediction of a corpus.

B batch, T time (context).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePath
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, did_you_mean
from archlab.data.corpus import Corpus, Source, read_corpus
from archlab.data.splits import SPLITS
from archlab.data.token_corpus import fit_word_tokenizer, is_recoverable, read_tokens
from archlab.data.tokenizers import VOCABULARY, Tokenizer, load_tokenizer
from archlab.data.windows import iter_windows, min_length, sample_windows

from ._tokenized import TokenizedTask


class TextTask(TokenizedTask):
    """Predict each token of a text from those before it.

    `tokenizer` is `bytes` (byte 0 separates documents), `words` (the `vocab_size` most frequent of the training text)
    or the path of a tokenizer.json, or of the vocabulary.json that a model of words carries. The text is read on first
    use, not by the constructor.
    """

    def __init__(
        self,
        source: Source,
        eval_bytes: int | None,
        tokenizer: str = "bytes",
        vocab_size: int | None = None,
        special_tokens: bool = False,
    ) -> None:
        if not _is_fixed_vocabulary(tokenizer) and (tokenizer == "words") != (vocab_size is not None):
            raise ValueError(f"vocab_size {vocab_size}, tokenizer {tokenizer!r}: words need a vocab_size, others none")
        if special_tokens and (tokenizer in ("bytes", "words") or _is_fixed_vocabulary(tokenizer)):
            raise ValueError(f"special_tokens, tokenizer {tokenizer!r}: only a tokenizer.json has special tokens")
        self.source, self.eval_bytes = source, eval_bytes
        self.tokenizer_name, self.word_vocab_size = tokenizer, vocab_size if tokenizer == "words" else None
        self.special_tokens = special_tokens

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """The number of tokens."""
        # Known without reading the corpus where the tokenizer is `words`.
        return self.tokenizer.vocab_size if self.word_vocab_size is None else self.word_vocab_size

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read on first use."""
        if self.word_vocab_size is None:
            return load_tokenizer(self.tokenizer_name, self.special_tokens)
        return fit_word_tokenizer(self.source, self.eval_bytes, self.word_vocab_size)

    @property
    def corpus(self) -> Corpus:
        """The text, read on first use; it must be UTF-8 unless its tokens are bytes."""
        return read_corpus(self.source, self.eval_bytes, self.tokenizer_name != "bytes")

    def check(self, context: int = 1) -> None:
        """Raise ArchlabError unless the text can be read and every split has a window of `context`."""
        for split in SPLITS:
            self._require_window(split, context)

    def describe(self) -> dict[str, Any]:
        """Return the corpus as data: bytes of each split as used and as available, documents, SHA-256."""
        corpus = self.corpus
        used = {split: len(self.text(split)) for split in SPLITS}
        facts = {"documents": corpus.documents, "split_by": corpus.split_by, "sha256": corpus.sha256}
        if self.tokenizer_name != "bytes":
            tokens = {split: self.length(split) for split in SPLITS}
            facts |= {"tokenizer": self.model_tokens().to_plain(), "tokens": tokens}
        return {"source": str(self.source), "bytes": used, "bytes_available": corpus.available, **facts}

    def length(self, split: str) -> int:
        """Return the number of tokens of a split."""
        return len(self._tokens(split))

    def text(self, split: str) -> bytes:
        """Return a split's text, for comparison with compressors."""
        _require_split(split)
        return self.corpus.texts[split]

    def bytes_per_token(self, split: str) -> float:
        """Return the mean number of bytes of a split per token."""
        return self.tokenizer.num_bytes(self.text(split)) / self.length(split)

    def bytes_per_evaluated_token(self, split: str, max_tokens: int | None) -> float:
        """Return the mean number of bytes per target of the first `max_tokens` targets."""
        first = 0 if self.tokenizer.prefix else 1  # without a prefix the first token is no target
        tokens = self._tokens(split)[first:][:max_tokens]
        # Of a whole split the text is counted, to the byte.
        if len(tokens) == self.length(split) - first:
            return self.bytes_per_token(split)
        return self.tokenizer.num_bytes_of(tokens.tolist()) / len(tokens)

    def has_bits_per_byte(self, split: str) -> bool:
        """Tell whether the tokens of a split tell its text; what they lose is logged."""
        _require_split(split)
        return is_recoverable(self.source, self.eval_bytes, self.tokenizer, split)

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets [B, T] of a step: a function of the arguments alone.

        Windows do not overlap; each is visited once per epoch, in an order that depends on the epoch.
        """
        self._require_window(split, context)
        return sample_windows(self._tokens(split), step, batch_size, context, seed, self.tokenizer.prefix)

    def eval_batches(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets [B, T] that cover a split once, in order, or its first `max_tokens` targets.

        All batches have one shape; targets after the end of the text are -100.
        """
        yield from iter_windows(self._tokens(split), batch_size, context, max_tokens, self.tokenizer.prefix)

    def num_eval_targets(self, split: str, context: int, max_tokens: int | None = None) -> int:
        """Return the number of targets of `eval_batches`."""
        count = self.length(split) - (0 if self.tokenizer.prefix else 1)
        return count if max_tokens is None else min(count, max_tokens)

    def _tokens(self, split: str) -> NDArray[Any]:
        _require_split(split)
        return read_tokens(self.source, self.eval_bytes, self.tokenizer, split)

    def _require_window(self, split: str, context: int) -> None:
        length, unit = self.length(split), "bytes" if self.tokenizer_name == "bytes" else "tokens"
        prefix = self.tokenizer.prefix
        if len(prefix) > context:
            raise ArchlabError(f"{self.tokenizer_name}: {len(prefix)} special tokens before a text fill train.context")
        if length < min_length(context, prefix):
            need = f"a window of context {context} and its last target need {min_length(context, prefix)}"
            raise ArchlabError(f"{self.source}: the {split} split has {length} {unit}; {need}")


def _is_fixed_vocabulary(tokenizer: str) -> bool:
    return PurePath(tokenizer).name == VOCABULARY


def _require_split(split: str) -> None:
    if split not in SPLITS:
        raise ArchlabError(f"no split {split!r}{did_you_mean(split, SPLITS)}")
