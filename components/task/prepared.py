"""A corpus whose tokens were prepared."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from archlab import ArchlabError, Count, register
from archlab.data.prepared import PreparedCorpus, corpus_place, find_corpus, open_corpus
from archlab.data.tokenizers import Tokenizer, load_tokenizer

from ._corpus import CorpusTask, require_split

ANY_SIZE = 2**32  # of a vocabulary that nothing bounds


@register("task", "prepared")
class Prepared(CorpusTask):
    """Predict the next token of a corpus that `archlab prepare` made, of any size.

    Experiments that are published with data of their own name it, and each user keeps it where there is room: a name is
    a directory below that of the environment variable ARCHLAB_CORPORA. Only the tokens of a batch are read.

    Args:
        corpus: Name of the prepared corpus, or its path.
        vocab_size: Number of tokens of the model; the corpus may have fewer, and not more.
        tokenizer: Path of the tokenizer.json that a trained model carries; null is the corpus's own.
        special_tokens: Whether special tokens work; null is as they did when the corpus was prepared.
    """

    def __init__(
        self, *, corpus: str, vocab_size: Count, tokenizer: str | None = None, special_tokens: bool | None = None
    ) -> None:
        if not corpus.strip("/."):
            raise ValueError(f"corpus {corpus!r} is neither a name nor a path")
        self.corpus_name, self.vocab_size, self.max_vocab_size = corpus, vocab_size, vocab_size
        self.known_tokenizer, self.known_special_tokens = tokenizer, special_tokens

    @property
    def prepared_dir(self) -> Path:
        """The directory of the corpus, whether it is there or not."""
        return corpus_place(self.corpus_name)

    @property
    def location(self) -> str:
        """The directory of the corpus."""
        return str(self.prepared_dir)

    def require_sources(self) -> None:
        """Raise ArchlabError if the corpus is not there, or has more tokens than the model."""
        found = self.corpus.manifest.vocab_size
        if found > self.max_vocab_size:
            raise ArchlabError(
                f"{self.location}: has {found:,} different tokens, more than vocab_size {self.vocab_size:,}"
            )

    @cached_property
    def corpus(self) -> PreparedCorpus:
        """The tokens, which are not read before they are asked for."""
        limit = f" of up to {self.max_vocab_size:,} tokens" if self.max_vocab_size < ANY_SIZE else ""
        make = f"archlab prepare EXPERIMENT --corpus TEXT --tokenizer FILE makes it{limit}"
        return open_corpus(find_corpus(self.corpus_name, make))

    @property
    def tokenizer_name(self) -> str:  # type: ignore[override]
        """The tokenizer's file, or `bytes`."""
        return self.known_tokenizer or self.corpus.tokenizer_name

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which a trained model carries, or else the corpus."""
        if self.known_tokenizer is None:
            return self.corpus.tokenizer
        special_tokens = self.known_special_tokens
        if special_tokens is None:
            special_tokens = bool(self.corpus.manifest.tokenizer.get("special_tokens", False))
        return load_tokenizer(self.known_tokenizer, special_tokens)

    def check(self, context: int = 1) -> None:
        """Raise ArchlabError unless the corpus is there, its tokens mean the model's, and every split has a window."""
        self.require_sources()
        found, own = self.corpus.tokenizer.model_tokens(), self.model_tokens()
        if not found.is_same(own):
            raise ArchlabError(f"{self.location}: its tokens are {found}, but the model's are {own}")
        super().check(context)

    def text(self, split: str) -> bytes:
        """Return the text of a held-out split."""
        require_split(split)
        return self.corpus.text(split)
