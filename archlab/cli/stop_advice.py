"""Messages of a stopped command that say how to continue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archlab.runtime.outcome import Outcome, outcome_of
from archlab.storage.checkpoint import checkpoints


@contextmanager
def advise_at_stop(advice: str, *, checkpoint_of: Path | None = None) -> Iterator[None]:
    """Add advice on how to continue to the error that stops a block.

    With `checkpoint_of`, a run's directory, add it only if there is a checkpoint to continue from.
    """
    try:
        yield
    except BaseException as error:
        if outcome_of(error) is Outcome.USER and (checkpoint_of is None or has_checkpoint(checkpoint_of)):
            error.add_note(advice)
        raise


def has_checkpoint(run: Path) -> bool:
    """Return whether a run has a checkpoint to resume from."""
    return bool(checkpoints(run / "checkpoints"))
