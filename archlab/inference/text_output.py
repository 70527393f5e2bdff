"""Text of tokens that arrive one at a time, up to a stop text.

V vocabulary.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from archlab.data.task import Task
from archlab.errors import ArchlabError
from archlab.inference.prompts import GeneratedToken

_MOST_EMPTY = 16  # tokens at the end without a text that are held: as many as a decoder waits for


class TextOutput:
    """The text of one stream: tokens go in, and come out with their texts once these are certain.

    A token is held while its text may be the beginning of a stop text, or the rest of its character is missing.
    `context` are the tokens before the first. After a stop text is `found`, nothing more comes out.
    """

    def __init__(
        self, task: Task, context: Sequence[int], stop: Sequence[str] = (), logprobs: int | None = None
    ) -> None:
        self.task, self.stop, self.logprobs = task, tuple(stop), logprobs
        self.found: str | None = None
        self.held: list[GeneratedToken] = []
        self._decoder = _Decoder(task, context)

    def add(self, token: int, logits_V: Tensor) -> list[GeneratedToken]:
        """Return the tokens that are certain after one more, which was sampled from logits."""
        logprob, best = None, ()  # type: float | None, tuple[GeneratedToken, ...]
        if self.logprobs is not None:
            logprob, best = self._score(token, logits_V)
        return self.add_scored(GeneratedToken(token, "", logprob, best))

    def add_scored(self, token: GeneratedToken) -> list[GeneratedToken]:
        """Return the tokens that are certain after one more, whose text is not known yet."""
        self._last = replace(token, text=self._decoder(token.token))
        self.held.append(self._last)
        text = "".join(each.text for each in self.held)
        ends = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in self.stop if stop in text]
        if ends:  # the one that is complete first, however the text is cut into tokens
            _, start, self.found = min(ends)
            certain, self.held = _cut(self.held, start), []
            return certain
        return self._release(len(text) - self._num_pending(text))

    def finish(self) -> list[GeneratedToken]:
        """Return the tokens that are still held, the last one with the text that its decoder has buffered."""
        held, self.held = self.held, []
        if self.found is None and (rest := self._decoder.finish()):
            # A decoder that buffers text returns none, and so the last token is held: but for a task's own decoder.
            held = held or [replace(self._last, text="")]
            held[-1] = replace(held[-1], text=held[-1].text + rest)
        return held

    def _score(self, token: int, logits_V: Tensor) -> tuple[float, tuple[GeneratedToken, ...]]:
        logprobs_V = logits_V.cpu().double().log_softmax(-1)
        values, tokens = logprobs_V.topk(min(self.logprobs or 0, len(logprobs_V)))
        pairs = zip(tokens.tolist(), values.tolist(), strict=True)
        best = (self._alone(each, value) for each, value in pairs if math.isfinite(value))
        return float(logprobs_V[token]), tuple(best)

    def _alone(self, token: int, logprob: float) -> GeneratedToken:
        return GeneratedToken(token, "".join(self.task.decode_stream([token])), logprob)

    def _num_pending(self, text: str) -> int:
        """Return how many characters at the end may begin a stop text."""
        longest = max(map(len, self.stop), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self.stop)), 0)

    def _release(self, num_certain: int) -> list[GeneratedToken]:
        count = end = 0
        for token in self.held:
            end += len(token.text)
            count += end <= num_certain
        empty = next((i for i, token in enumerate(reversed(self.held)) if token.text), len(self.held))
        count = min(count, len(self.held) - min(empty, _MOST_EMPTY))
        certain, self.held = self.held[:count], self.held[count:]
        return certain


def _cut(tokens: Sequence[GeneratedToken], num_characters: int) -> list[GeneratedToken]:
    """Return the tokens whose text begins before the end of the given number of characters, the last one cut there."""
    kept, before = list[GeneratedToken](), 0
    for token in tokens:
        if before < num_characters:
            kept.append(replace(token, text=token.text[: num_characters - before]))
        before += len(token.text)
    return kept


class _Decoder:
    """Turns around the decoding of a task, which asks for tokens, so that it is given them one at a time."""

    def __init__(self, task: Task, context: Sequence[int]) -> None:
        self._task, self._tokens = task, deque[int]()
        self._pieces = task.decode_continuation(context, self._feed())

    def _feed(self) -> Iterator[int]:
        while self._tokens:  # asked again only once there is another token, or none is to come
            yield self._tokens.popleft()

    def __call__(self, token: int) -> str:
        self._tokens.append(token)
        piece = next(self._pieces, None)
        if piece is None or self._tokens:
            name = type(self._task).__name__
            raise ArchlabError(f"the task {name}: its decode_continuation yields not one text for each token")
        return piece

    def finish(self) -> str:
        return "".join(self._pieces)
