"""How far the losses of two candidates may lie apart by chance, from what seeds did to them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist, variance

from archlab.searching.ladder.results import RunResult

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class SeedNoise:
    """The standard deviation of the logarithm of a loss between seeds, and the degrees of freedom it was got from."""

    deviation: float
    freedom: int

    def margin(self, seeds: int, other_seeds: int) -> float:
        """Return the difference of two mean log losses up to which chance explains it (two-sided, 5 %)."""
        return _student(self.freedom) * self.deviation * math.sqrt(1 / seeds + 1 / other_seeds)


def seed_noise(results: Iterable[RunResult]) -> SeedNoise | None:
    """Return the noise of whole runs, pooled over candidates and rungs, or None where no candidate has two seeds."""
    cells: dict[tuple[int, str], list[float]] = {}
    for result in results:
        if result.loss is not None and result.part == 1.0:
            cells.setdefault((result.rung, result.candidate), []).append(math.log(result.loss))
    repeated = [values for values in cells.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if not freedom:
        return None
    return SeedNoise(math.sqrt(sum((len(v) - 1) * variance(v) for v in repeated) / freedom), freedom)


def _student(freedom: int) -> float:
    """Return the quantile of Student's t by Hill's expansion, exact where the first two degrees of freedom have one."""
    p = (1 + _CONFIDENCE) / 2
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    z, n = NormalDist().inv_cdf(p), freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / n**power for power, term in enumerate(terms, 1))
