"""What a stopped command says: how to go on with what it saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archlab.runtime.outcome import Outcome, outcome_of
from archlab.storage.checkpoint import checkpoints


@contextmanager
def advise_at_stop(advice: str, *, checkpoint_of: Path | None = None) -> Iterator[None]:
    """Add how to go on to the error by which a user stops a block.

    With `checkpoint_of`, a run's directory, only if there is a checkpoint to go on from.
    """
    try:
        yield
    except BaseException as error:
        if outcome_of(error) is Outcome.USER and (checkpoint_of is None or has_checkpoint(checkpoint_of)):
            error.add_note(advice)
        raise


def has_checkpoint(run: Path) -> bool:
    """Tell whether a run has a checkpoint to resume from."""
    return bool(checkpoints(run / "checkpoints"))
