"""The resources used by a search: seconds of all its workers, tokens and FLOPs of training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from optuna import Study
from optuna.trial import FrozenTrial

from archlab.config.experiment import Experiment
from archlab.searching.results.baseline import read_baseline
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.training.callbacks import Callback

_S_PER_HOUR = 3600
_UNITS = {"hours": ("seconds", _S_PER_HOUR), "tokens": ("tokens", 1), "flops": ("flops", 1)}


class Meter:
    """Counts the resources that one trial uses, over all of its runs.

    `store` is called at each evaluation, since a trial may be killed; `earlier` is the count before it paused.
    """

    def __init__(
        self, store: Callable[[dict[str, float]], None] | None = None, earlier: Mapping[str, float] | None = None
    ) -> None:
        known = earlier or {}
        self.store, self.begin = store, time.monotonic() - known.get("seconds", 0.0)
        self.tokens, self.flops = int(known.get("tokens", 0)), known.get("flops", 0.0)

    @property
    def spent(self) -> dict[str, float]:
        """The seconds since the trial began, and the tokens and FLOPs of its optimizer steps."""
        return {"seconds": time.monotonic() - self.begin, "tokens": self.tokens, "flops": self.flops}

    def watch(self, flops_per_token: float) -> Callback:
        """Return the callback that counts a training run."""
        return _MeterCallback(self, flops_per_token)


class _MeterCallback(Callback):
    def __init__(self, meter: Meter, flops_per_token: float) -> None:
        self.meter, self.flops_per_token = meter, flops_per_token
        self.tokens_per_step, self.last = 0, 0

    def on_start(self, experiment: Experiment, step: int) -> None:
        train = experiment.train
        self.tokens_per_step, self.last = train.batch_size * train.accumulate * train.context, step

    def on_step(self, record: Mapping[str, float]) -> None:
        self._count(int(record["step"]))

    def on_eval(self, record: Mapping[str, float]) -> None:
        self._count(int(record["step"]))
        if self.meter.store is not None:
            self.meter.store(self.meter.spent)

    def _count(self, step: int) -> None:
        new = (step - self.last) * self.tokens_per_step
        self.last = step
        self.meter.tokens += new
        self.meter.flops += new * self.flops_per_token


def total_spent(trials: Iterable[FrozenTrial], baseline: Mapping[str, float]) -> dict[str, float]:
    """Return the resources used by all trials, interrupted attempts included, and by the baseline."""
    parts = [baseline, *(trial_attrs(trial).get("spent", {}) for trial in trials)]
    return {name: sum(part.get(name, 0) for part in parts) for name in ("seconds", "tokens", "flops")}


def search_spent(study: Study, folder: Path) -> dict[str, float]:
    """Return the resources used by a search so far, over all of its workers."""
    baseline = read_baseline(folder / "baseline")
    return total_spent(study.get_trials(deepcopy=False), baseline.spent if baseline else {})


def in_units(spent: Mapping[str, float]) -> dict[str, float]:
    """Return used resources in the units of `study.budget`."""
    return {unit: spent.get(name, 0) / size for unit, (name, size) in _UNITS.items()}


def is_used_up(budget: Mapping[str, float], spent: Mapping[str, float]) -> bool:
    """Whether a budget is used, in one of its units."""
    used = in_units(spent)
    return any(used[unit] >= amount for unit, amount in budget.items())
