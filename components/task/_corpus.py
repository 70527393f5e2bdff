"""Next-token prediction of a corpus of tokens.

B batch, T time (context).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from archlab import ArchlabError, did_you_mean
from archlab.data.documents import Document, iter_documents, read_documents
from archlab.data.prepared import PreparedCorpus
from archlab.data.splits import SPLITS
from archlab.data.token_corpus import TokenCorpus, is_recoverable
from archlab.data.windows import iter_windows, min_length, read_windows

from ._tokenized import TokenizedTask


class CorpusTask(TokenizedTask):
    """Predict each token of a corpus from those before it; the constructor does not open the corpus."""

    has_documents = True

    @property
    @abstractmethod
    def corpus(self) -> TokenCorpus:
        """The tokens, made on first use."""

    @property
    @abstractmethod
    def location(self) -> str:
        """Where the corpus is, for messages."""

    def check(self, context: int = 1) -> None:
        """Raise ArchlabError unless the text can be read and every split has a window of `context`."""
        for split in SPLITS:
            self._require_window(split, context)

    def prepare(self) -> Sequence[PreparedCorpus]:
        """Make the tokens, if they are not there and not bytes."""
        return [self.corpus] if isinstance(self.corpus, PreparedCorpus) else []

    def describe(self) -> dict[str, Any]:
        """Return the corpus as data: bytes of each split as used and as available, documents, SHA-256."""
        corpus = self.corpus
        facts = {"documents": corpus.documents, "split_by": corpus.split_by, "sha256": corpus.sha256}
        if self.tokenizer_name != "bytes":
            tokens = {split: self.length(split) for split in SPLITS}
            facts |= {"tokenizer": self.model_tokens().to_plain(), "tokens": tokens}
        return {
            "source": self.location,
            "bytes": dict(corpus.used),
            "bytes_available": dict(corpus.available),
            **facts,
        }

    def length(self, split: str) -> int:
        """Return the number of tokens of a split."""
        require_split(split)
        return self.corpus.length(split)

    def bytes_per_token(self, split: str) -> float:
        """Return the mean number of bytes of a split per token."""
        require_split(split)
        return self.corpus.num_bytes(split) / self.length(split)

    def bytes_per_evaluated_token(self, split: str, max_tokens: int | None) -> float:
        """Return the mean number of bytes per target of the first `max_tokens` targets."""
        first = 0 if self.tokenizer.prefix else 1  # without a prefix the first token is not a target
        tokens = self._tokens(split)[first:][:max_tokens]
        # Of a whole split the text is counted, to the byte.
        if len(tokens) == self.length(split) - first:
            return self.bytes_per_token(split)
        return self.tokenizer.num_bytes_of(tokens.tolist()) / len(tokens)

    def has_bits_per_byte(self, split: str) -> bool:
        """Return whether the tokens of a split keep its text; log what they lose."""
        require_split(split)
        return is_recoverable(*self._lost(split), self.corpus.used[split], split, self.location)

    def _lost(self, split: str) -> tuple[int, str]:
        return self.corpus.lost(split)

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets [B, T] of a step: a function of the arguments alone.

        Windows do not overlap; each is visited once per epoch, in an order that depends on the epoch.
        """
        start, stop = step * batch_size, (step + 1) * batch_size
        return self.rows(split, start, stop, batch_size=batch_size, context=context, seed=seed)

    def rows(
        self, split: str, start: int, stop: int, *, batch_size: int, context: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets [B, T] of samples of a run; see `Task.rows`."""
        self._require_window(split, context)
        return read_windows(self._tokens(split), range(start, stop), context, seed, self.tokenizer.prefix)

    def documents(
        self, split: str, start: int, stop: int, *, batch_size: int, context: int, seed: int
    ) -> list[Document]:
        """Return inputs and targets of each document in the same samples; see `Task.documents`."""
        self._require_window(split, context)
        tokens, ends = self._tokens(split), self.corpus.ends(split)
        return read_documents(tokens, ends, range(start, stop), context, seed, self.tokenizer.prefix)

    def eval_documents(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[list[Document]]:
        """Yield inputs and targets of each document in the same batches."""
        tokens, ends = self._tokens(split), self.corpus.ends(split)
        yield from iter_documents(tokens, ends, batch_size, context, max_tokens, self.tokenizer.prefix)

    def eval_batches(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets [B, T] that cover the split once, in order, or its first `max_tokens` targets.

        All batches have one shape; targets after the end of the text are -100.
        """
        yield from iter_windows(self._tokens(split), batch_size, context, max_tokens, self.tokenizer.prefix)

    def num_eval_targets(self, split: str, context: int, max_tokens: int | None = None) -> int:
        """Return the number of targets of `eval_batches`."""
        count = self.length(split) - (0 if self.tokenizer.prefix else 1)
        return count if max_tokens is None else min(count, max_tokens)

    def _tokens(self, split: str) -> NDArray[Any]:
        require_split(split)
        return self.corpus.tokens(split)

    def _require_window(self, split: str, context: int) -> None:
        length, unit = self.length(split), "bytes" if self.tokenizer_name == "bytes" else "tokens"
        prefix = self.tokenizer.prefix
        if len(prefix) > context:
            raise ArchlabError(f"{self.tokenizer_name}: {len(prefix)} special tokens before a text fill train.context")
        if length < min_length(context, prefix):
            need = f"a window of context {context} and its last target need {min_length(context, prefix)}"
            raise ArchlabError(f"{self.location}: the {split} split has {length} {unit}; {need}")


def require_split(split: str) -> None:
    """Raise ArchlabError for an unknown split, naming the nearest one."""
    if split not in SPLITS:
        raise ArchlabError(f"no split {split!r}{did_you_mean(split, SPLITS)}")
