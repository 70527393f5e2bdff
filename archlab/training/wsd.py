"""Several lengths of training for little more than one: decays that branch off a run of the schedule wsd.

Until its decay begins, a run of warm-up, stable rate and decay is the beginning of every longer one (arXiv:2405.18392).
So the longest is trained once, the trunk, and each shorter one is its decay alone, from a checkpoint of the trunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.config.start_from import StartFrom
from archlab.config.train_config import TrainConfig
from archlab.errors import ConfigError


@dataclass(frozen=True)
class Branch:
    """A decay: the step of the trunk at which it begins, the steps of the whole, and the overrides that make it."""

    start: int
    steps: int
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class BranchPoints:
    """The branches of a trunk, from the shortest to the longest."""

    branches: tuple[Branch, ...]

    @property
    def checkpoint_at(self) -> tuple[int, ...]:
        """The trunk's `train.checkpoint_at`: the steps whose checkpoints the branches start from."""
        return tuple(dict.fromkeys(branch.start for branch in self.branches))


def branch_points(train: TrainConfig, fractions: Sequence[float], trunk: str | Path) -> BranchPoints:
    """Return where decays branch off a trunk with the settings `train`, for these fractions of its length.

    A branch of T steps begins at step `round(T * (1 - decay_fraction))` of the trunk, whose directory is `trunk`, and
    is bit for bit the run that would have had T steps from the start. Raises ConfigError for another schedule, for a
    fraction that is not between 0 and 1, and for a decay that would begin before the end of the warm-up.
    """
    if train.schedule != "wsd":
        raise ConfigError("train.schedule", f"{train.schedule!r} has no decay that branches off; take 'wsd'")
    for fraction in fractions:
        if not 0 < fraction < 1:
            raise ConfigError("train.steps", f"a branch of {fraction:g} of the trunk is not between 0 and 1")
    return BranchPoints(tuple(_branch(train, fraction, trunk) for fraction in sorted(set(fractions))))


def _branch(train: TrainConfig, fraction: float, trunk: str | Path) -> Branch:
    steps = round(fraction * train.steps)
    start = round(steps * (1 - train.decay_fraction))
    if not max(1, train.warmup_steps) <= start < steps:
        problem = f"the decay of a branch of {steps} steps would begin at step {start}, with a warm-up of"
        raise ConfigError("train.steps", f"{problem} {train.warmup_steps}; take longer branches")
    overrides = {
        "train.steps": steps,
        "train.warmup": train.warmup_steps,  # in steps: a fraction would be one of the branch
        "train.checkpoint_at": None,
        "train.start_from": StartFrom(str(trunk), start, "everything").absolute().to_plain(),
    }
    return Branch(start, steps, overrides)
