"""Why a trial failed or was not trained, in one line."""

from __future__ import annotations

from archlab.errors import ArchlabError, ConfigError, describe_error, one_line
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
