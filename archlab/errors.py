"""Errors of a user's making, in one line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

from archlab.text import shorten, visible

# A password ends at the last @ of its word, or at the first one after: SQLAlchemy allows spaces in it.
# One slash is left of two where a URL was taken for a path.
_USER = re.compile(r"(:/{1,3}[^\s/:@]*):(?:\S*(?=@)|[^\n]{,80}?(?=@))")
_PARAMETER = re.compile(r"((?:password|passwd|pwd|secret|token)=)[^\s&;,'\"]+", re.IGNORECASE)

_MOST_NAMES = 12


class ArchlabError(Exception):
    """An error whose message is for the user: the command line prints it without a traceback and exits with 2.

    The message is one line that any terminal shows: hidden characters of names and values are escaped, and it has no
    password, whatever it was made of.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(shorten(visible(redact(str(message)))))


class ConfigError(ArchlabError):
    """An invalid configuration value, with its location: `file: yaml.path: problem`.

    `key` is the unknown key below the path, if that is the problem.
    """

    def __init__(self, path: str, problem: str, source: str = "", key: str = "") -> None:
        self.path, self.problem, self.source, self.key = path, one_line(problem), source, key
        super().__init__(": ".join(part for part in (source, path, self.problem) if part))


class TrainingError(ArchlabError):
    """A training run that cannot continue, such as one whose loss is not finite."""


class PeerError(ArchlabError):
    """The failure of a run that another process or the launcher reports; this process exits silently."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__("another process of the run has failed")


def redact(text: str) -> str:
    """Replace the passwords of the URLs in a text by `***`."""
    return _PARAMETER.sub(r"\1***", _USER.sub(r"\1:***", text))


class MachineError(ArchlabError):
    """A failure of the machine, such as a full disk: completed work is kept, and the same command continues it."""


def one_line(text: object) -> str:
    """Return the first line of a text that is not blank, its hidden characters escaped."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    return visible(lines[0]) if lines else type(text).__name__


def why_unreadable(error: Exception) -> str:
    """Return why a file cannot be read, for a message that has the file's name already."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8: byte 0x{error.object[error.start]:02X} at {error.start:,}"
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)


def describe_error(error: BaseException) -> str:
    """Return the type and the message of an exception in one line."""
    name, text = type(error).__name__, one_line(error)
    return name if text == name else f"{name}: {text}"


@contextmanager
def refuse_failed(what: str) -> Iterator[None]:
    """Raise an ArchlabError that begins with `what` for any failure of code that is not archlab's."""
    try:
        yield
    except ArchlabError:
        raise
    except Exception as error:
        raise ArchlabError(f"{what}: {describe_error(error)}") from error


def show_value(value: object, longest: int = 200) -> str:
    """Return a value as it is written in an error, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= longest else f"{text[:longest]}..."


def is_unicode(text: str) -> bool:
    """Return whether a text has no surrogates, which Python makes of bytes on a command line that are not UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def nearest(name: object, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the known name that is most like a name, or None if none is near."""
    return next(iter(get_close_matches(str(name), sorted(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, or known names if none is near, a dozen at most."""
    known = sorted(known)
    near = nearest(name, known)  # a cutoff below difflib's 0.6: names are short
    if near:
        return f"; did you mean {near!r}?"
    return f"; known: {list_names(known)}" if known else ""


def list_names(names: Iterable[str]) -> str:
    """Return names in one line; of many the first, and how many more there are."""
    names = list(names)
    more = len(names) - _MOST_NAMES
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_MOST_NAMES])} and {more} more"
