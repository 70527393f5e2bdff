"""Profiles that a training run logs beside its metrics: the `train.profile:` section."""

from __future__ import annotations

from dataclasses import dataclass

from archlab.config.domains import Count


@dataclass(frozen=True)
class ProfileSteps:
    """Updates that torch's profiler traces: `steps` of them, the first of which is `start`, counted from 1."""

    start: Count = 10
    steps: Count = 3

    @property
    def last(self) -> int:
        """The last update that is traced."""
        return self.start + self.steps - 1
