"""Requests and results of evaluation suites: curves and figures with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError, did_you_mean
from archlab.runtime.extensions import SUITES

Setting: TypeAlias = str | int | float | None
# Takes a description of the measurement, the amount done, and the total.
SuiteProgress: TypeAlias = Callable[[str, int, int | None], None]

_RESAMPLES, _FEWEST_UNITS, _MOST_UNITS = 2000, 4, 4096
COVERAGE = 0.9  # of an interval


@dataclass(frozen=True)
class Estimate:
    """A mean with its 90 % interval, by bootstrap over `units`; None if there are too few."""

    value: float
    low: float | None
    high: float | None
    units: int
    count: int  # of averaged targets or items


@dataclass(frozen=True)
class Curve:
    """Estimates along an axis: `x` and `y` label the axes, `unit` is the resampled unit, `points` are ordered by x."""

    name: str
    title: str
    x: str
    y: str
    unit: str
    points: Sequence[tuple[float, Estimate]]
    log: bool = False


@dataclass(frozen=True)
class SuiteResult:
    """The results of a suite: `settings` are those that they depend on, `tokens` how many the model read."""

    suite: str
    settings: Mapping[str, Setting]
    tokens: int
    curves: Sequence[Curve] = ()
    figures: Mapping[str, Estimate] = field(default_factory=dict)
    notes: Sequence[str] = ()
    missing: Mapping[str, str] = field(default_factory=dict)  # measurements left out, and their requirements
    records: Sequence[Mapping[str, object]] = ()  # item by item, in result.json alone

    def to_dict(self) -> dict[str, object]:
        """Return the result as JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class SuiteRequest:
    """Options of a suite: what to measure, and how much.

    Attributes:
        split: The split of the experiment's data.
        text: A text in its place.
        max_tokens: How many of its tokens are read at most.
        max_context: The longest context.
        tasks: Names of tasks of lm-eval.
        task_files: A directory of YAML files with tasks of one's own.
        limit: How many items of each task are read at most.
        num_fewshot: How many examples precede each question.
        whole_documents: Whether no text is cut and the state is carried over each.
        batch_size: How many rows are read at once.
        questions: A file with MT-Bench's questions.
    """

    split: str = "test"
    text: str | None = None
    max_tokens: int | None = None
    max_context: int | None = None
    tasks: Sequence[str] = ()
    task_files: Path | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    whole_documents: bool = False
    batch_size: int | None = None
    questions: Path | None = None

    def require_only(self, suite: str, *taken: str) -> None:
        """Raise ArchlabError for an option that a suite does not take."""
        default = SuiteRequest()
        for each in fields(self):
            if each.name not in taken and getattr(self, each.name) != getattr(default, each.name):
                option = {"max_tokens": "tokens"}.get(each.name, each.name).replace("_", "-")
                raise ArchlabError(f"the suite {suite} takes no --{option}")


class Suite(Protocol):
    """A function that measures a trained model; it leaves the model as it was."""

    def __call__(
        self, model: nn.Module, experiment: Experiment, request: SuiteRequest, progress: SuiteProgress
    ) -> SuiteResult:
        """Return the results; raise ArchlabError for a model or data that the suite cannot measure."""


def suite_names() -> list[str]:
    """Return the names of all suites."""
    return SUITES.names()


def find_suite(name: str) -> Suite:
    """Return the suite of a name; raise ArchlabError, naming the nearest, if there is none."""
    suite: Suite | None = SUITES.find(name)
    if suite is None:
        raise ArchlabError(f"no suite {name!r}{did_you_mean(name, suite_names())}")
    return suite


def estimate(sums: Sequence[float] | NDArray[np.float64], counts: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """Return the mean of units' sums over their counts, and its interval from resampling the units.

    Of more than some thousands, neighbors are resampled together.
    """
    sums_N, counts_N = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    value, total = float(sums_N.sum() / counts_N.sum()), int(counts_N.sum())
    if len(sums_N) < _FEWEST_UNITS or not math.isfinite(value):
        return Estimate(value, None, None, len(sums_N), total)
    if len(sums_N) > _MOST_UNITS:
        edges = np.linspace(0, len(sums_N), _MOST_UNITS, endpoint=False).astype(np.int64)
        sums_N, counts_N = np.add.reduceat(sums_N, edges), np.add.reduceat(counts_N, edges)
    units = len(sums_N)
    drawn = np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), _RESAMPLES)
    counted = drawn @ counts_N
    means = (drawn @ sums_N)[counted > 0] / counted[counted > 0]
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Estimate(value, float(low), float(high), units, total)


def estimate_of_items(sums: Sequence[float], counts: Sequence[float]) -> Estimate:
    """Return the same of items that are right or wrong; of items that are all equal no interval, and not a false one.

    Resamples of twenty wrong answers are all wrong, which does not imply that the next answer is.
    """
    found = estimate(sums, counts)
    return replace(found, low=None, high=None) if found.low == found.high else found
