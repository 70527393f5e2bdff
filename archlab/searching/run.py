"""Search: a baseline, then trials around the base experiment until their number is reached.

Any number of processes may work on one directory, and each may be stopped at any moment: the same command resumes
the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from archlab.data.task import Task
from archlab.errors import ArchlabError
from archlab.runtime.signals import stop_on_signals
from archlab.searching.pool import run_pool
from archlab.searching.sampling.trial_values import held_base
from archlab.searching.space.search_space import Space
from archlab.searching.study.search_dir import open_search
from archlab.searching.study.workers import hold_lease
from archlab.searching.trials.callbacks import SearchCallback, SearchCallbackList
from archlab.searching.worker import SearchResult, SearchWorker

__all__ = ["SearchResult", "search"]


def search(
    space: Space,
    folder: Path,
    *,
    trials: int | None = None,
    callbacks: Sequence[SearchCallback] = (),
    force: bool = False,
    workers: int | None = None,
) -> SearchResult:
    """Search a space in a directory, or resume the search that the directory holds; `force` starts over.

    So many `workers` each run one trial at a time, in a process of its own; with None this process trains one after
    the other. Raises ArchlabError where the directory holds another search, naming the first difference.
    """
    _require_bits_per_byte(space)
    total = trials if trials is not None else space.study.trials
    held_base(space)  # a budget that even the base experiment cannot meet is refused before there is a directory
    with stop_on_signals(), open_search(space, folder, force):
        if workers is not None:
            return run_pool(space, folder, total, SearchCallbackList(callbacks), workers)
        with hold_lease(folder):
            return SearchWorker(space, folder, total, SearchCallbackList(callbacks)).run()


def _require_bits_per_byte(space: Space) -> None:
    """Raise ArchlabError if trials are to be compared by bits per byte and the tokens do not tell the text."""
    if "val_bpb" in space.objectives:
        task: Task = space.base.resolve().task.factory()()
        if not task.has_bits_per_byte("validation"):
            raise ArchlabError("objectives: val_bpb: bits per byte of this text would be wrong; take val_loss")
