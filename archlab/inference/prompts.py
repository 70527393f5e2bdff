"""Prompts, their settings, and the generated continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias

from archlab.errors import ArchlabError

FinishReason: TypeAlias = Literal["length", "stop"]


@dataclass(frozen=True)
class Settings:
    """How a text is continued: see `archlab.generate`; `logprobs` is None where none are computed."""

    max_new_tokens: int = 200
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    stop: Sequence[str] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Raise ArchlabError for a setting out of range, but for those of the sampler, which checks its own."""
        if self.max_new_tokens < 0:
            raise ArchlabError(f"max_new_tokens {self.max_new_tokens} is below 0")
        if isinstance(self.stop, str):  # its characters would be stop texts
            raise ArchlabError(f"stop {self.stop!r} is one text; give a list of texts")
        if "" in self.stop:
            raise ArchlabError("a stop text is empty: it would end every text at once")
        if self.logprobs is not None and self.logprobs < 0:
            raise ArchlabError(f"logprobs {self.logprobs} is below 0")


@dataclass(frozen=True)
class Prompt:
    """A text to continue, with settings of its own in place of those of the call, where they are not None.

    Attributes:
        text: The text.
        id: An identifier, copied to the result.
        source: Where it comes from, such as `prompts.jsonl:3`, which errors name.
    """

    text: str
    id: object = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] | None = None
    source: str = ""

    def settings(self, defaults: Settings) -> Settings:
        """Return its settings."""
        names = {each.name for each in fields(Settings)} - {"logprobs"}
        return replace(defaults, **{name: value for name in names if (value := getattr(self, name)) is not None})


@dataclass(frozen=True)
class GeneratedToken:
    """A token, and the text that it adds.

    The text is empty within a character of several tokens, and that of a stop text is left out.

    Attributes:
        token: Its number in the vocabulary.
        text: The text that it adds to those before it.
        logprob: The logarithm of its probability, of the model's own distribution: before temperature, top_k and top_p.
        best: The most likely tokens in its place, with their probabilities; the text of each is that of it alone.
    """

    token: int
    text: str
    logprob: float | None = None
    best: tuple[GeneratedToken, ...] = ()


@dataclass(frozen=True)
class Generation:
    """The continuation of a prompt.

    Attributes:
        prompt: The prompt.
        text: The new text, up to the stop text that ended it.
        tokens: The new tokens whose text it is.
        finish_reason: `stop` after a stop text, else `length`.
        stop: The stop text that was found.
    """

    prompt: Prompt
    text: str
    tokens: tuple[GeneratedToken, ...]
    finish_reason: FinishReason
    stop: str | None = None
