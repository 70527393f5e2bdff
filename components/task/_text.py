"""Next-token prediction of a text."""

from __future__ import annotations

from functools import cached_property
from pathlib import PurePath

from archlab.data.corpus import read_corpus
from archlab.data.survey import Source
from archlab.data.token_corpus import TokenCorpus, fit_word_tokenizer, open_tokens
from archlab.data.tokenizers import VOCABULARY, Tokenizer, load_tokenizer, vocab_size_problem

from ._corpus import CorpusTask, require_split


class TextTask(CorpusTask):
    """Predict each token of a text from those before it.

    `tokenizer` is `bytes` (byte 0 separates documents), `words` (the `vocab_size` most frequent of the training text)
    or the path of a tokenizer.json, or of the vocabulary.json that a model of words carries. The text is read on first
    use, not by the constructor; tokens other than bytes are made once, in the user's cache.
    """

    def __init__(
        self,
        source: Source,
        eval_bytes: int | None,
        tokenizer: str = "bytes",
        vocab_size: int | None = None,
        special_tokens: bool = False,
    ) -> None:
        if not _is_fixed_vocabulary(tokenizer) and (problem := vocab_size_problem(tokenizer, vocab_size)):
            raise ValueError(problem)
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
        return fit_word_tokenizer(self.source, self.word_vocab_size)

    @property
    def corpus(self) -> TokenCorpus:
        """The tokens, made on first use; the text must be UTF-8 unless its tokens are bytes."""
        return open_tokens(self.source, self.eval_bytes, self.tokenizer)

    @property
    def location(self) -> str:
        """The source of the text."""
        return str(self.source)

    def text(self, split: str) -> bytes:
        """Return a split's text, for comparison with compressors."""
        require_split(split)
        if split != "train" or self.tokenizer_name == "bytes":
            return self.corpus.text(split)
        return read_corpus(self.source, self.eval_bytes, strict=True).texts[split]  # of which tokens alone are kept

    def _lost(self, split: str) -> tuple[int, str]:
        if split != "train":
            return self.corpus.lost(split)
        lost = self.tokenizer.lost(self.text(split))
        return lost.num_bytes, lost.example


def _is_fixed_vocabulary(tokenizer: str) -> bool:
    return PurePath(tokenizer).name == VOCABULARY
