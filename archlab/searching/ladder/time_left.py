"""How long a ladder takes from here: a run takes as long as those measured so far, scaled to its tokens and size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from archlab.errors import ConfigError
from archlab.searching.ladder.candidates import nominal_params
from archlab.searching.ladder.config import Ladder, Rung
from archlab.searching.ladder.runs import num_seeds

# Seconds per token grow with this power of the parameters where a single rung has been measured: less than in
# proportion, as small models leave a machine waiting. Two rungs determine it.
_POWER, _LEAST_POWER, _MOST_POWER = 0.7, 0.0, 1.2

Sizes = Mapping[int, tuple[float, float]]
Measured = Mapping[int, Mapping[str, Sequence[float]]]  # seconds of whole runs, by rung and candidate


def rung_sizes(ladder: Ladder) -> Sizes:
    """Return the parameters, and the tokens of a run, of each rung by its number; empty if they are unknown."""
    try:
        return {rung.number: _size(ladder, rung) for rung in ladder.rungs}
    except ConfigError:
        return {}


def _size(ladder: Ladder, rung: Rung) -> tuple[float, float]:
    if ladder.is_rehearsal:  # whose models are small on every rung
        return 1.0, 1.0
    params = nominal_params(ladder, rung)
    return params, rung.tokens if rung.tokens is not None else (rung.tokens_per_param or 0.0) * params


def runs_ahead(ladder: Ladder, at: Rung, entrants: int) -> dict[int, float]:
    """Return how many whole runs a rung with the given number of candidates takes, and each later rung trained here.

    From each rung `keep` candidates continue, and as many more as there is `room` for.
    """
    found, going = dict[int, float](), entrants
    for rung in ladder.rungs[at.number - 1 :]:
        if rung.elsewhere:
            break
        found[rung.number] = going * num_seeds(ladder, rung) * _share_of_all(ladder)
        going = rung.num_going_on(going)
    return found


def num_runs(ladder: Ladder, rung: Rung) -> int:
    """Return the number of runs of a candidate at a rung, branches included."""
    return num_seeds(ladder, rung) * (len(_branches(ladder)) + 1)


def run_share(ladder: Ladder, label: str) -> float:
    """Return the share of a whole run that the run of a label takes: a branch, `... at 0.5`, is its decay alone."""
    _, is_branch, part = label.rpartition(" at ")
    return _share(ladder, float(part)) if is_branch else 1.0


def candidate_of(label: str) -> str:
    """Return the candidate of a run's label: `rung 1: llama seed 0`, or without the rung."""
    return label.rpartition(": ")[2].rpartition(" seed ")[0]


def _share_of_all(ladder: Ladder) -> float:
    return 1 + sum(_share(ladder, part) for part in _branches(ladder))


def _share(ladder: Ladder, part: float) -> float:
    return part * float(getattr(ladder.base.train, "decay_fraction", 1.0))


def _branches(ladder: Ladder) -> set[float]:
    return {part for part in ladder.branches if part < 1}


class LadderClock:
    """Measures the runs of this process, and estimates the time left of the ladder."""

    def __init__(self, ladder: Ladder) -> None:
        self.ladder, self.sizes = ladder, rung_sizes(ladder)
        self.measured: dict[int, dict[str, list[float]]] = {}
        self.ahead: dict[int, float] = {}
        self.rung, self.ended = 0, 0.0

    def begin(self, rung: Rung, done: int, total: int) -> None:
        """Begin a rung, of whose runs so many have ended before."""
        self.rung, self.ahead = rung.number, runs_ahead(self.ladder, rung, round(total / num_runs(self.ladder, rung)))
        self.ended = self.ahead.get(rung.number, 0.0) * done / max(total, 1)

    def end(self, label: str, seconds: float, *, is_measured: bool) -> None:
        """Count a run that has ended; a failed one says nothing about the duration of others."""
        share = run_share(self.ladder, label)
        self.ended += share
        if is_measured:
            of_rung = self.measured.setdefault(self.rung, {})
            of_rung.setdefault(candidate_of(label), []).append(seconds / share)

    def seconds_left(self, running: Sequence[tuple[str, float, float | None]]) -> float | None:
        """Return the seconds until the ladder is done; `running` are labels, seconds so far, and those left."""
        now = [(run_share(self.ladder, label), spent, left) for label, spent, left in running]
        return ladder_seconds_left(self.sizes, self.ahead, self.measured, self.ended, now)


def ladder_seconds_left(
    sizes: Sizes,
    ahead: Mapping[int, float],
    measured: Measured,
    ended: float,
    running: Sequence[tuple[float, float, float | None]],
) -> float | None:
    """Return the seconds until the last rung is done, or None while no duration is known.

    - `ahead`: whole runs by rung, of the current rung and those after it.
    - `ended`: how many whole runs of the rung that is being trained have ended.
    - `running`: the share of a whole run of each that runs, its seconds so far, and those left if they are known.
    """
    begun = [(spent + left) / share for share, spent, left in running if left is not None and share]
    # The median of a candidate, as one of its runs may have been stopped for a night; the mean of the candidates, as
    # one is slower than another.
    known = {number: fmean(map(median, found.values())) for number, found in measured.items() if found}
    if not sizes or not ahead:
        return None
    at = min(ahead)
    if at not in known and begun:
        known[at] = fmean(begun)
    if not known:
        return None
    each = _seconds_of_a_run(ahead, sizes, known)
    left = sum(max(each[at] * share - spent, 0.0) if rest is None else rest for share, spent, rest in running)
    waiting = max(ahead[at] - ended - sum(share for share, *_ in running), 0.0) * each[at]
    later = sum(runs * each[number] for number, runs in ahead.items() if number != at)
    return (left + waiting + later) / max(len(running), 1)


def _seconds_of_a_run(ahead: Mapping[int, float], sizes: Sizes, known: Mapping[int, float]) -> dict[int, float]:
    """Return the seconds of a whole run of each rung: as measured, or those of the last measured one scaled."""
    power, last = _power(sizes, known), max(known)
    params, tokens = sizes[last]
    scales = {number: sizes[number][1] / tokens * (sizes[number][0] / params) ** power for number in ahead}
    return {number: known.get(number, known[last] * scale) for number, scale in scales.items()}


def _power(sizes: Sizes, known: Mapping[int, float]) -> float:
    """Return the power of the parameters with which seconds per token grow, from the rungs that are measured."""
    points = [(math.log(sizes[n][0]), math.log(s / sizes[n][1])) for n, s in known.items() if s > 0]
    middle = [fmean(axis) for axis in zip(*points, strict=True)]
    spread = sum((x - middle[0]) ** 2 for x, _ in points)
    if spread == 0:
        return _POWER
    slope = sum((x - middle[0]) * (y - middle[1]) for x, y in points) / spread
    return min(max(slope, _LEAST_POWER), _MOST_POWER)
