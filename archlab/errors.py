"""What a user may have done wrong, said in one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ArchlabError(Exception):
    """A failure whose message is meant for a person: the command line prints it and exits with 2."""


class ConfigError(ArchlabError):
    """A value that cannot be used, and where it stands: `file: yaml.path: what is wrong`.

    `key` is the unknown name below the path, where that is what is wrong.
    """

    def __init__(self, path: str, problem: str, source: str = "", key: str = "") -> None:
        self.path, self.problem, self.source, self.key = path, one_line(problem), source, key
        super().__init__(": ".join(part for part in (source, path, self.problem) if part))


class TrainingError(ArchlabError):
    """A run that cannot go on, such as one whose loss is no longer a number."""


def one_line(text: object) -> str:
    """Fold a message of several lines into its first sentence-like line."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0] if lines else type(text).__name__


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known word, or the list of the known ones."""
    known = sorted(known)
    near = get_close_matches(str(word), known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
