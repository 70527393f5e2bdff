"""Errors of a user's making, in one line each."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ArchlabError(Exception):
    """An error whose message is for the user: the command line prints it without a traceback and exits with 2."""


class ConfigError(ArchlabError):
    """An invalid configuration value, with its location: `file: yaml.path: problem`.

    `key` is the unknown key below the path, if that is the problem.
    """

    def __init__(self, path: str, problem: str, source: str = "", key: str = "") -> None:
        self.path, self.problem, self.source, self.key = path, one_line(problem), source, key
        super().__init__(": ".join(part for part in (source, path, self.problem) if part))


class TrainingError(ArchlabError):
    """A training run that cannot continue, such as one whose loss is not finite."""


def one_line(text: object) -> str:
    """Return the first line of a text that is not blank."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return lines[0] if lines else type(text).__name__


def nearest(name: object, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the known name that is most like a name, or None if none is near."""
    return next(iter(get_close_matches(str(name), sorted(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or the list of known names if none is near."""
    known = sorted(known)
    near = nearest(name, known)  # a cutoff below difflib's 0.6: names are short
    if near:
        return f"; did you mean {near!r}?"
    return f"; known: {', '.join(known)}" if known else ""
