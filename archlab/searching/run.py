"""Search: a baseline, then trials around the base experiment until their number is reached.

Any number of processes may work on one directory, and each may be stopped at any moment: the same command resumes
the search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

from archlab.data.task import Task
from archlab.errors import ArchlabError
from archlab.modeling.build import build_on_meta
from archlab.runtime.signals import stop_on_signals
from archlab.searching.fleet import require_number
from archlab.searching.launched_search import run_launched
from archlab.searching.pool import run_one_of_many, run_pool
from archlab.searching.results.objectives import require_decoding
from archlab.searching.sampling.trial_values import held_base
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space
from archlab.searching.study.search_dir import SPACE, open_search
from archlab.searching.study.workers import hold_lease
from archlab.searching.trials.callbacks import SearchCallback, SearchCallbackList
from archlab.searching.trials.trial_resources import num_seats
from archlab.searching.worker import SearchResult, SearchWorker

__all__ = ["SearchResult", "find_search", "join_search", "search"]
StrPath: TypeAlias = str | PathLike[str]


def search(
    space: Space,
    folder: Path,
    *,
    trials: int | None = None,
    callbacks: Sequence[SearchCallback] = (),
    force: bool = False,
    workers: int | Literal["auto"] | None = None,
) -> SearchResult:
    """Search a space in a directory, or resume the search that the directory holds; `force` starts over.

    So many `workers` each run one trial at a time, in a process of its own, where the space's launcher places them if
    it has one; with None this process trains one after the other.
    Raises ArchlabError where the directory holds another search, naming the first difference.
    """
    require_number(space, workers)
    count = num_seats() if workers == "auto" else workers
    _require_bits_per_byte(space)
    base = held_base(space)  # a budget that even the base experiment cannot meet is refused before there is a directory
    if "decode_us_per_token" in space.objectives:
        experiment = base.resolve()
        require_decoding(experiment, build_on_meta(experiment.model))
    total = trials if trials is not None else space.study.trials
    with stop_on_signals(), open_search(space, folder, force):
        if count is not None:
            run_workers = run_pool if space.study.launcher is None else run_launched
            return run_workers(space, folder, total, SearchCallbackList(callbacks), count)
        with hold_lease(folder):
            return SearchWorker(space, folder, total, SearchCallbackList(callbacks)).run()


def find_search(
    source: StrPath | Mapping[str, Any], overrides: Sequence[str] = (), out: StrPath | None = None
) -> tuple[Space, Path]:
    """Return a space and the directory of its search, `out` or else runs/NAME.

    The directory of a search stands for the space that is stored there. Raises ArchlabError if `out` is another one.
    """
    if not isinstance(source, Mapping) and (Path(source) / SPACE).is_file():
        folder = Path(source)
        if out is not None and Path(out).resolve() != folder.resolve():
            raise ArchlabError(f"{folder}: is the directory of a search, which cannot continue in {out}")
        space = load_space(folder / SPACE, overrides, recorded=True)
        return replace(space, name=folder.resolve().name), folder
    space = load_space(source, overrides)
    return space, Path(out or Path("runs") / space.name)


def join_search(space: Space, folder: Path, callbacks: Sequence[SearchCallback] = ()) -> SearchResult | None:
    """Be one worker of the search in a directory until no trial is left to begin.

    Returns its result if this worker was the last to leave, or else None.
    """
    with stop_on_signals(), open_search(space, folder, force=False):
        return run_one_of_many(space, folder, space.study.trials, SearchCallbackList(callbacks))


def _require_bits_per_byte(space: Space) -> None:
    """Raise ArchlabError if trials are to be compared by bits per byte and the tokens lose text."""
    if "val_bpb" in space.objectives:
        task: Task = space.base.resolve().task.factory()()
        if not task.has_bits_per_byte("validation"):
            raise ArchlabError("objectives: val_bpb: bits per byte of this text would be wrong; take val_loss")
