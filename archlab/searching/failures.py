"""Why a trial failed or was not trained, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from archlab.errors import ArchlabError, ConfigError, TrainingError, describe_error, one_line
from archlab.runtime.outcome import is_out_of_memory


class InfeasibleTrial(ArchlabError):
    """A trial that violates a constraint."""


def failure_reason(error: BaseException) -> str:
    """Return the reason of a failed run in one line."""
    if isinstance(error, ConfigError):
        return f"{error.path}: {error.problem}"
    if isinstance(error, ArchlabError):
        return one_line(error)
    if is_out_of_memory(error):
        return f"out of memory: {one_line(error)}"
    return describe_error(error)


@contextmanager
def exits_fail() -> Iterator[None]:
    """Raise TrainingError where a component calls sys.exit: it ends a trial, and not the search with success."""
    try:
        yield
    except SystemExit as error:
        raise TrainingError(f"sys.exit({error.code!r}) was called") from error
