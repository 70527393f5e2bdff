"""The progress of a run, a search or a ladder, as displays and `archlab watch` show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

State = Literal["starting", "training", "validating", "evaluating", "stopped", "complete", "pruned", "failed"]
Kind = Literal["run", "trial", "search", "ladder"]  # a trial is a run of a search


@dataclass(frozen=True)
class RunProgress:
    """A training run, or the evaluation of a trained model, whose steps are targets.

    `metrics` holds the last value of each metric, such as loss, val_loss and tokens_per_s; `seconds_left` is None until
    it is known, and `reason` says why a run stopped or failed.
    """

    label: str
    state: State = "training"
    step: int = 0
    steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    reason: str = ""

    @property
    def times(self) -> tuple[float, float | None]:
        """The seconds that the run has taken and those left, estimated from its speed."""
        ahead = self.steps - self.step
        is_known = self.seconds_left is not None and ahead > 0
        return (self.seconds_left * self.step / ahead if is_known and self.seconds_left else 0.0), self.seconds_left


@dataclass(frozen=True)
class Reached:
    """Results of a trial, a candidate or the baseline: the values of the objectives."""

    label: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class WorkerProgress:
    """A process that works on a search, or died: its work and start (UTC), its place, and the reason of its end."""

    state: str
    host: str
    pid: int
    work: str = ""
    since: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Progress:
    """A run, a search or a ladder as a whole, and its running parts.

    - `stage`: the part of a ladder that `total` and `counts` are of.
    - `total`: the number of trials, or of the runs of a ladder's rung.
    - `counts`: numbers by state: complete, pruned, failed, paused, running, waiting.
    - `best`: the best value of each objective; `front`: the Pareto set where there are several.
    - `running`: the baseline, the trials or the runs that are in flight, of all workers.
    - `workers`: who works on it, and who died.
    - `recent`: the last trials or runs that ended.
    - `seconds_left`: for all that is left, including a ladder's later rungs; None until it is known.
    """

    kind: Kind
    name: str
    state: Literal["running", "stopped", "complete", "failed"] = "running"
    stage: str = ""
    total: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    best: tuple[Reached, ...] = ()
    baseline: Reached | None = None
    front: tuple[Reached, ...] = ()
    running: tuple[RunProgress, ...] = ()
    workers: tuple[WorkerProgress, ...] = ()
    recent: tuple[RunProgress, ...] = ()
    seconds_left: float | None = None

    @property
    def done(self) -> int:
        """The number of trials or runs that have ended."""
        return sum(self.counts.get(state, 0) for state in ("complete", "pruned", "failed"))

    def to_dict(self) -> dict[str, object]:
        """Return the progress as JSON data."""
        return {**asdict(self), "done": self.done}


def estimate_left(durations: list[float], remaining: int, running: list[tuple[float, float | None]]) -> float | None:
    """Return the seconds until all is done, or None while no duration is known.

    `durations` are the seconds of ended parts, `running` the seconds so far and those left, if known, of running ones,
    each in a worker of its own; `remaining` have not started.
    """
    known = [elapsed + left for elapsed, left in running if left is not None]
    every = durations or known
    if not every:
        return None
    if not running and remaining <= 0:
        return None
    mean = sum(every) / len(every)
    in_flight = sum(max(mean - elapsed, 0.0) if left is None else left for elapsed, left in running)
    return (mean * max(remaining, 0) + in_flight) / max(len(running), 1)
