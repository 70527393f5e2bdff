"""Tasks whose tokens are those of text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from archlab import ArchlabError
from archlab.data.task import Task
from archlab.data.tokenizers import Decoder, ModelTokens, Tokenizer, load_tokenizer

_log = logging.getLogger(__name__)


class TokenizedTask(Task):
    """Next-token prediction of text by a tokenizer: `bytes`, or the path of a tokenizer.json."""

    predicts_next = True
    metrics: Sequence[str] = ("loss", "bpb")
    tokenizer_name: str
    special_tokens: bool = False

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, read on first use."""
        return load_tokenizer(self.tokenizer_name, self.special_tokens)

    def model_tokens(self) -> ModelTokens:
        """Return the vocabulary."""
        return self.tokenizer.model_tokens()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text; log a warning if they lose some of it."""
        try:
            data = text.encode(errors="surrogateescape")  # as Python reads arguments that are no UTF-8
        except UnicodeEncodeError as error:
            raise ArchlabError(f"the text has half a character, {text[error.start]!r}, at {error.start}") from error
        tokens, lost = self.tokenizer.encode(text), self.tokenizer.lost(data)
        if lost.num_bytes:
            _log.warning("the tokenizer loses part of %r, as %s", text, lost.example)
        return tokens

    def encode_continuation(self, text: str) -> list[int]:
        """Return the tokens of a text that continues after others: without those that precede every text."""
        return self.encode(text)[len(self.tokenizer.prefix) :]

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self.tokenizer.decode(tokens)

    def decoder(self, context: Sequence[int] = ()) -> Decoder:
        """Return a decoder for tokens that arrive one at a time."""
        return self.tokenizer.decoder(context)

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the text that each token adds, and the text that is buffered at the end."""
        return self.decode_continuation((), tokens)

    def decode_continuation(self, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
        """Yield the text that each token adds to that of a prompt, and the text that is buffered at the end."""
        decoder = self.decoder(prompt)
        for token in tokens:
            yield decoder(token)
        yield decoder.finish()
