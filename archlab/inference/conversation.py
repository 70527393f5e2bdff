"""A conversation of a user and a model that keeps one state: nothing is read twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from archlab.inference.prompts import GeneratedToken, Settings
from archlab.inference.saved_state import SavedState
from archlab.inference.text_model import TextModel
from archlab.inference.text_stream import StateFiles, TextStream


class Conversation:
    """Each turn's text continues where the answer before it has ended, at the cost of its own tokens alone."""

    def __init__(self, model: TextModel, settings: Settings, *, compile: bool | None = None) -> None:
        self.model, self.settings, self.compile = model, settings, compile
        self._saved: SavedState | None = None

    @property
    def num_tokens(self) -> int:
        """The number of tokens so far, those of answers among them."""
        return self._saved.position if self._saved else 0

    def answer(self, text: str) -> Iterator[GeneratedToken]:
        """Yield the tokens of an answer to a text; closing the iterator ends the answer, and the next continues there.

        Raises ArchlabError at once for a text that the model cannot read, or that its full attention has no room for.
        """
        seed = self.settings.seed if self._saved is None else None
        stream = self.model.open_stream(text, self.settings, saved=self._saved, seed=seed, compile=self.compile)
        return self._tokens(stream)

    def restart(self) -> None:
        """Forget everything, the random numbers included."""
        self._saved = None

    def _tokens(self, stream: TextStream) -> Iterator[GeneratedToken]:
        try:
            yield from stream.run(StateFiles())
        finally:
            end = stream.end()
            # Text held back by an ended answer must not be printed before the next one.
            held = [token.token for token in end.held]
            self._saved = replace(end, context=[*end.context, *held], held=())
