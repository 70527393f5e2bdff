"""The vocabulary of a model: a tokenizer's identity and the files that define it, stored with the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelTokens:
    """The vocabulary of a model's tokens.

    Attributes:
        kind: `bytes`, `words`, `tokenizer` (a tokenizer.json), the name of what a task's own tokens are, or `unknown`.
        sha256: Of the file that defines the tokens, the first of `files`; empty for kinds without one.
        special_tokens: Whether the tokenizer's own special tokens are added to texts; a setting, not a meaning.
        before: The special tokens that a tokenizer adds before a text of its own accord, by their names.
        after: Those that it adds after a text.
        files: The contents of the files that define the tokens, by name.
    """

    kind: str
    sha256: str = ""
    special_tokens: bool = False
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def file(self) -> str | None:
        """The name of the file that defines the tokens, if there is one."""
        return next(iter(self.files), None)

    def is_same(self, other: ModelTokens) -> bool:
        """Return whether tokens mean the same."""
        return (self.kind, self.sha256) == (other.kind, other.sha256)

    def to_plain(self) -> dict[str, Any]:
        """Return everything but the files' contents as plain data."""
        plain: dict[str, Any] = {"kind": self.kind}
        if self.files:
            plain |= {"sha256": self.sha256, "files": list(self.files)}
        if self.kind == "tokenizer":
            plain |= {"special_tokens": self.special_tokens, "before": list(self.before), "after": list(self.after)}
        return plain

    def __str__(self) -> str:
        if self.kind != "tokenizer":
            return f"{self.kind}, sha256 {self.sha256[:12]}" if self.sha256 else self.kind
        return f"{self.file or 'tokenizer.json'}, sha256 {self.sha256[:12]}{self._describe_special_tokens()}"

    def _describe_special_tokens(self) -> str:
        sides = {"before": self.before, "after": self.after}
        added = [f"{' '.join(names)} {side}" for side, names in sides.items() if names]
        if not added:
            return ""
        return f"; special tokens {'on' if self.special_tokens else 'off'}: {' and '.join(added)} a text"


UNKNOWN_TOKENS = ModelTokens("unknown")
