"""The jobs of the workers of a search or a ladder, which a launcher has placed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from archlab.errors import ConfigError
from archlab.runtime.launch import STDERR, Job, Launcher
from archlab.runtime.outcome import Outcome
from archlab.searching.space.search_space import Space
from archlab.searching.space.storage_url import password_environment
from archlab.searching.study.search_dir import JOBS

MAX_DEATHS = 3  # of a worker's jobs in a row, without a trial that has ended in between
_POLL_S = 2.0
_GRACE_S = 90.0  # for a worker to save the checkpoint of its trial in
_AGAIN = (Outcome.MACHINE, Outcome.PREEMPTED, Outcome.KILLED, Outcome.TIME_LIMIT)


def require_number(space: Space, workers: object) -> None:
    """Raise ConfigError if a launcher is to place workers, and their number is not given."""
    if space.study.launcher is not None and not isinstance(workers, int):
        raise ConfigError("study.launcher", "is to place a number of workers: give it, as in --workers 4", space.source)


@dataclass
class _Place:
    """The jobs of one worker, one after the other, with their outcomes."""

    folder: Path
    job: str | None = None
    deaths: int = 0
    ended_before: int = 0
    outcome: Outcome | None = None


class Fleet:
    """The workers of a search, each a job that is submitted again if its machine has ended it, and not the search."""

    def __init__(self, launcher: Launcher, space: Space, folder: Path, workers: int) -> None:
        self.launcher, self.resources, self.search = launcher, space.study.resources, folder
        self.env = password_environment(space.study.storage)
        self.places = [_Place(folder / JOBS / str(number)) for number in range(workers)]
        for place in self.places:
            place.job = self._submit(place)

    def _submit(self, place: _Place) -> str:
        # The directory holds all of the search. Its plugins were trusted when the user named the space.
        own = ("search", str(self.search.absolute()), "--worker", "--trust-plugins")
        return self.launcher.submit(
            Job((sys.executable, "-m", "archlab", *own), place.folder, self.resources, self.env)
        )

    def wait(self, count_ended: Callable[[], int]) -> None:
        """Wait until all workers have ended; where that is interrupted, ask them to save and end.

        `count_ended` is called every two seconds, and returns how many trials have ended.
        """
        try:
            while self.poll(count_ended()):
                time.sleep(_POLL_S)
        except BaseException:
            self.stop()
            raise

    def poll(self, ended_trials: int) -> bool:
        """Look after every worker; return whether any of them still works, or waits to."""
        for place in self._busy_places():
            assert place.job is not None
            outcome = self.launcher.poll(place.job)
            if outcome is None:
                continue
            place.outcome = outcome
            place.deaths = 1 if ended_trials > place.ended_before else place.deaths + 1
            place.ended_before = ended_trials
            place.job = self._submit(place) if outcome in _AGAIN and place.deaths < MAX_DEATHS else None
        return any(True for _ in self._busy_places())

    def _busy_places(self) -> Iterator[_Place]:
        return (place for place in self.places if place.job is not None)

    def stop(self) -> None:
        """Ask every worker to save and end, and wait until all have ended."""
        for place in self._busy_places():
            assert place.job is not None
            self.launcher.stop(place.job, _GRACE_S)
        deadline = time.monotonic() + _GRACE_S + _POLL_S
        while time.monotonic() < deadline and any(self.launcher.poll(p.job or "") is None for p in self._busy_places()):
            time.sleep(_POLL_S)

    def explain(self) -> str:
        """Return why the workers ended before the search, by the last one that was unwell."""
        unwell = [place for place in self.places if place.outcome not in (None, Outcome.DONE)]
        if not unwell:
            return f"{self.search}: all workers have ended, and the search has not"
        place = unwell[-1]
        assert place.outcome is not None
        file = place.folder / STDERR
        lines = file.read_text(errors="replace").strip().splitlines() if file.is_file() else []
        last = f": {lines[-1].removeprefix('archlab: ')}" if lines else ""
        return f"the workers have ended before the search: {place.outcome.value}{last}; see {file}"
