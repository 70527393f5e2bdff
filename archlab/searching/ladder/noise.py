"""How far the losses of two candidates may differ by chance, from the differences between seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

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
    """Return the noise of whole runs, pooled over rungs, or None where no two candidates have two seeds in common.

    A seed is the order of the data, the same for every candidate: its common effect is no noise between them.
    """
    rungs: dict[int, dict[str, dict[int, float]]] = {}
    for result in results:
        if result.loss is not None and result.part == 1.0:
            rungs.setdefault(result.rung, {}).setdefault(result.candidate, {})[result.seed] = math.log(result.loss)
    found = [_residuals(list(losses.values())) for losses in rungs.values()]
    freedom = sum(freedom for _, freedom in found)
    return SeedNoise(math.sqrt(sum(squares for squares, _ in found) / freedom), freedom) if freedom else None


def _residuals(losses: Sequence[Mapping[int, float]]) -> tuple[float, int]:
    """Return the sum of squares about the means of candidates and of seeds, and its degrees of freedom."""
    seeds = sorted(set.intersection(*(set(mine) for mine in losses)))
    freedom = (len(losses) - 1) * (len(seeds) - 1)
    if freedom <= 0:
        return 0.0, 0
    of_seed = {seed: fmean(mine[seed] for mine in losses) for seed in seeds}
    whole = fmean(of_seed.values())
    of_candidate = [fmean(mine[seed] for seed in seeds) for mine in losses]
    squares = (
        (mine[seed] - mean - of_seed[seed] + whole) ** 2
        for mine, mean in zip(losses, of_candidate, strict=True)
        for seed in seeds
    )
    return sum(squares), freedom


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
