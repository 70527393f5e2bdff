"""Which of several sources each sample of a run is from: exact shares, by a pure function of the sample's number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


class Mixing:
    """Sources with weights: of any first n samples each source has its share, to less than a sample for each source.

    The shares are those of the weights as they are written in decimals: 0.7 and 0.3 are 7 and 3 of 10 samples.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        exact = [Fraction(repr(weight)) for weight in weights]
        scale = math.lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * scale) for weight in exact]
        divisor = math.gcd(*whole)
        self.weights = [weight // divisor for weight in whole]

    @property
    def shares(self) -> list[float]:
        """The fraction of samples of each source."""
        return [weight / sum(self.weights) for weight in self.weights]

    def counts(self, num_samples: int) -> list[int]:
        """Return how many of a run's first samples are from each source."""
        # Python's integers, which do not overflow. Of one more sample exactly one count is one more: each source takes
        # its share of those that the sources before it leave.
        left, weight_left, counts = num_samples, sum(self.weights), []
        for weight in self.weights:
            count = (left * weight + weight_left // 2) // weight_left
            counts.append(count)
            left, weight_left = left - count, weight_left - weight
        return counts

    def sources(self, start: int, stop: int) -> list[int]:
        """Return the source of each sample from `start` to `stop`."""
        found, before = [], self.counts(start)
        for number in range(start + 1, stop + 1):
            after = self.counts(number)
            found.append(next(source for source, count in enumerate(after) if count > before[source]))
            before = after
        return found
