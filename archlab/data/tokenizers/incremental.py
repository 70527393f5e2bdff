"""Decoding of tokens that arrive one at a time, in constant time per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # the decoding of a character's bytes before its last one
_MAX_PENDING = 16  # tokens: invalid bytes, which never become a character, are not waited for any longer


class IncrementalDecoder:
    """Returns the text that each token adds.

    A token's text depends on those before it: subword decoders merge bytes into characters and insert spaces. So the
    new tokens are decoded together with those of the last text that was emitted, and only the difference is returned.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._context = list(context)[-_MAX_PENDING:]  # tokens whose text has been emitted
        self._pending: list[int] = []

    def __call__(self, token: int) -> str:
        """Return the text that one more token adds."""
        self._pending.append(token)
        is_complete = not self._text().endswith(_INCOMPLETE) or len(self._pending) >= _MAX_PENDING
        return self._emit() if is_complete else ""

    def finish(self) -> str:
        """Return the text that is still buffered, with U+FFFD for an incomplete character."""
        return self._emit() if self._pending else ""

    def _text(self) -> str:
        return self._decode(self._context + self._pending)

    def _emit(self) -> str:
        text, before = self._text(), self._decode(self._context)
        # Not simply `text[len(before):]`: a decoder that cleans up spaces changes the end of earlier text.
        new = text[_common_length(before, text) :]
        # A token without a text of its own, as special tokens may be, must not be the only context of the next one.
        self._context = self._pending if new else (self._context + self._pending)[-_MAX_PENDING:]
        self._pending = []
        return new


def _common_length(one: str, other: str) -> int:
    if other.startswith(one):
        return len(one)
    return next(index for index, (a, b) in enumerate(zip(one, f"{other}\0", strict=False)) if a != b)
