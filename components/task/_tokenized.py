"""Tasks whose words come from text and go back to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from archlab.data.task import Task
from archlab.data.tokenizers import ByteTokenizer, Decoder, HuggingFaceTokenizer, Tokenizer


class TokenizedTask(Task):
    """Predict the next word of what a tokenizer makes of text: `bytes`, or the words of a tokenizer.json."""

    predicts_next = True
    metrics = ("loss", "bpb")
    tokenizer_name: str

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into words, read when first asked for."""
        return ByteTokenizer() if self.tokenizer_name == "bytes" else HuggingFaceTokenizer(self.tokenizer_name)

    def encode(self, text: str) -> list[int]:
        """Return the words of a text."""
        return self.tokenizer.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of words."""
        return self.tokenizer.decode(tokens)

    def decoder(self) -> Decoder:
        """Return a decoder for tokens that arrive one at a time."""
        return self.tokenizer.decoder()

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the text that each token adds, and what is left at the end."""
        decoder = self.decoder()
        for token in tokens:
            yield decoder(token)
        yield decoder.finish()
