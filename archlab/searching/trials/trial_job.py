"""The training of one trial and its results as plain data, so that another process can run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from archlab.config.experiment import UnresolvedExperiment
from archlab.searching.space.search_space import Space
from archlab.searching.study.trial_attrs import TrialAttrs
from archlab.searching.trials.callbacks import Judge
from archlab.searching.variants.cost_request import CostRequest, Costs
from archlab.training.callbacks import Callback

# In a trial that runs again: whatever stopped it may stop it again, and an attempt counts if it came no further.
SAVE_EVERY_S = 20.0


@dataclass(frozen=True)
class TrialJob:
    """The training runs of a trial, or of the baseline.

    `settings` are those that are tuned, `tasks` the values of several tasks by their names, `seeds` the number of
    random seeds of the best settings. `metric` is reported during training, a larger one better if `sign` is -1, and
    `measured` are the objectives that are measured on the finished model. `values` are shown with the first run.
    `save_every_s` is for a trial whose process was killed before, which must make progress each time, and
    `pauses` for one that the judge does not end, but lets wait. `force` starts over where the directory holds another
    run.
    """

    label: str
    folder: Path
    experiment: UnresolvedExperiment
    metric: str
    sign: float
    search: str
    settings: Sequence[Mapping[str, Any]] = ({},)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: int = 1
    measured: Sequence[str] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = True
    save_every_s: float | None = None
    pauses: bool = False
    force: bool = True

    @property
    def runs(self) -> int:
        """The most training runs on one task."""
        return len(self.settings) + self.seeds - 1

    @property
    def is_single(self) -> bool:
        """Whether the trial's directory is that of its only run."""
        return self.runs == 1 and not self.tasks


def make_job(space: Space, label: str, folder: Path, experiment: UnresolvedExperiment, search: str) -> TrialJob:
    """Return the job of a trial of a space, without settings to tune."""
    return TrialJob(
        label,
        folder,
        # Those of the space too: loading the trained model uses only the experiment.
        replace(experiment, plugins=space.plugins),
        metric=space.pruned_by,
        sign=space.sign_of(space.pruned_by),
        search=search,
        tasks=space.tasks,
        seeds=space.study.runs_per_trial,
        measured=tuple(space.objectives),
        pauses=space.promotion is not None,
    )


@dataclass(frozen=True)
class TrialOutput:
    """The metrics of a trial, means over its random seeds and tasks, and the results of its runs for the study."""

    metrics: dict[str, float]
    attrs: TrialAttrs = field(default_factory=TrialAttrs)


class TrialListener(Protocol):
    """Callbacks of a trial in training: its reports, and the decision to continue."""

    @property
    def judge(self) -> Judge | None:
        """The judge of whether the trial is pruned, if any."""

    def on_run(self, label: str, values: Mapping[str, object]) -> Callback:
        """A training run starts; return its callback."""


class TrialRunner(Protocol):
    """Counts the costs of one trial and trains it, in this process or in another."""

    def count(self, request: CostRequest) -> Costs:
        """Return costs; raise ConfigError if the experiment has no model."""
        ...

    def train(self, job: TrialJob, listener: TrialListener) -> TrialOutput:
        """Return the results of the trial, or raise the exception that ended it."""
        ...


class OpenRunner(Protocol):
    """Gives a trial a place to run in."""

    def __call__(self, label: str, folder: Path, *, alone: bool) -> AbstractContextManager[TrialRunner]:
        """Return the runner of a trial in its directory; `alone` if its process was killed before, as where memory is
        short.
        """
        ...
