"""Failures of the machine and of memory as errors of archlab's own, whatever library raises them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from archlab.errors import ArchlabError, MachineError, describe_error, one_line
from archlab.runtime.outcome import Outcome, is_out_of_memory, iter_causes, outcome_of
from archlab.runtime.user_dirs import ensure_user

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def explain_failures(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Translate libraries' exceptions of a function into MachineError, or ArchlabError for a lack of memory."""

    @wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        ensure_user()
        try:
            return function(*args, **kwargs)
        except ArchlabError:
            raise
        except Exception as error:
            if outcome_of(error) is Outcome.MACHINE:
                raise MachineError(describe_error(error)) from error
            if any(map(is_out_of_memory, iter_causes(error))):
                advice = "try a smaller train.batch_size or train.context"
                raise ArchlabError(f"out of memory: {one_line(error)}; {advice}") from error
            raise

    return wrapper
