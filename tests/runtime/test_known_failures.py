"""Failures of the machine and of memory, as callers of the API see them."""

from __future__ import annotations

import errno

import pytest
import torch

from archlab import ArchlabError, ConfigError, MachineError
from archlab.runtime.known_failures import explain_failures


@explain_failures
def work(error: BaseException) -> None:
    """Fail."""
    raise error


def test_a_failure_of_the_machine_has_a_type_and_a_cause() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(MachineError, match="No space left on device") as caught:
        work(full)
    assert caught.value.__cause__ is full


def test_memory_that_is_out_comes_with_advice() -> None:
    with pytest.raises(ArchlabError, match=r"out of memory: CUDA out of memory; try a smaller train\.batch_size"):
        work(torch.OutOfMemoryError("CUDA out of memory"))


@pytest.mark.parametrize("error", [ConfigError("a", "b"), ValueError("a"), KeyboardInterrupt(), BrokenPipeError()])
def test_others_are_as_they_were(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        work(error)
    assert caught.value is error


def test_it_is_still_the_function_that_it_was() -> None:
    assert (work.__name__, work.__doc__) == ("work", "Fail.")
