"""The training runs of one trial: its settings tuned, then the best of them with further random seeds.

Each is a run of archlab in `runs/0`, `runs/1`, ... of the trial's directory, and an ended one is not run again.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import optuna

from archlab.config.experiment import Experiment, UnresolvedExperiment
from archlab.errors import TrainingError
from archlab.runtime.outcome import Outcome, iter_causes, outcome_of
from archlab.runtime.private_apis import breaks_process
from archlab.searching.failures import failure_reason
from archlab.searching.results.baseline import BaselineResult, read_baseline
from archlab.searching.study.progress import checkpoint_step
from archlab.searching.study.study import delete_weights
from archlab.searching.study.trial_attrs import TrialAttrs
from archlab.searching.trials.callbacks import Judge
from archlab.searching.trials.trial_job import TrialOutput
from archlab.training import metrics as training_metrics

_FILES = ("run.json", "experiment.yaml", "metrics.jsonl")  # experiment.yaml is what the other two need


class Train(Protocol):
    """Trains one run of a trial."""

    def __call__(
        self, experiment: Experiment, run: Path, index: int, chosen: Mapping[str, Any], judge: Judge | None
    ) -> dict[str, float]:
        """Return the metrics; `index` counts the runs from 0, and `chosen` are the settings of this one."""


class CandidateRuns:
    """Runs a candidate: `settings` are those that are tuned, `seeds` the number of random seeds of the best.

    The best is that with the best `metric`, a larger one if `sign` is -1; `judge` prunes by the best value so far, then
    by the mean over the random seeds. `search` is the search's UUID.
    """

    def __init__(
        self, folder: Path, train: Train, metric: str, sign: float, judge: Judge | None = None, search: str = ""
    ) -> None:
        self.folder, self.train, self.metric, self.sign, self.judge = folder, train, metric, sign, judge
        self.search, self.steps_before = search, 0

    def run(self, raw: UnresolvedExperiment, settings: Sequence[Mapping[str, Any]], seeds: int) -> TrialOutput:
        """Return the result of the best settings; raise TrainingError if none of them could be trained."""
        tuned = [self._tune(index, raw, settings) for index in range(len(settings))]
        best = self._best(tuned)
        if best is None:
            raise TrainingError(tuned[0].reason)
        winner = raw.override(settings[best], "inner")
        if not self._has_model(best):  # a run whose weights were lost, as by a kill between two files
            (self._run_dir(best) / "result.json").unlink()
            tuned[best] = self._result(best, winner.resolve(), settings[best], None)
        repeated = [tuned[best], *(self._repeat(len(settings) + n, winner, n + 1, best) for n in range(seeds - 1))]
        self._publish(best)
        return self._summarize(settings, tuned, best, repeated)

    def _tune(self, index: int, raw: UnresolvedExperiment, settings: Sequence[Mapping[str, Any]]) -> BaselineResult:
        experiment = raw.override(settings[index], "inner").resolve()
        result = self._result(index, experiment, settings[index], lambda value, _: self._best_of(index, value))
        best = self._best([self._read(each) for each in range(index + 1)])
        for each in range(index + 1):
            delete_weights(self._run_dir(each), ("checkpoints",) if each == best else None)
        return result

    def _repeat(self, index: int, winner: UnresolvedExperiment, seed: int, best: int) -> BaselineResult:
        chosen = {"train.seed": winner.resolve().train.seed + seed}
        earlier = [best, *range(index - seed + 1, index)]
        experiment = winner.override(chosen, "runs_per_trial").resolve()
        result = self._result(index, experiment, chosen, lambda value, step: self._mean_with(earlier, value, step))
        delete_weights(self._run_dir(index))
        if result.reason:
            raise TrainingError(f"random seed {chosen['train.seed']}: {result.reason}")
        return result

    def _result(
        self,
        index: int,
        experiment: Experiment,
        chosen: Mapping[str, Any],
        combine: Callable[[float, int], float] | None,
    ) -> BaselineResult:
        run = self._run_dir(index)
        judge = _ShiftedJudge(self.judge, self.steps_before, combine) if self.judge and combine else None
        self.steps_before += experiment.train.steps if combine else 0
        if judge:
            judge.report_earlier(run, self.metric, has_ended=read_baseline(run) is not None)
        if (result := read_baseline(run)) is None:
            run.mkdir(parents=True, exist_ok=True)
            result = self._run(experiment, run, index, chosen, judge)
            result.write(run)
        return result

    def _run(
        self, experiment: Experiment, run: Path, index: int, chosen: Mapping[str, Any], judge: Judge | None
    ) -> BaselineResult:
        try:
            return BaselineResult(self.train(experiment, run, index, chosen, judge), search=self.search)
        except optuna.TrialPruned:
            copy_run_files(run, self.folder)  # so that the report shows how far it came
            raise
        except Exception as error:
            if outcome_of(error) is not Outcome.TRIAL or any(map(breaks_process, iter_causes(error))):
                raise
            return BaselineResult(reason=failure_reason(error), search=self.search)

    def _run_dir(self, index: int) -> Path:
        return self.folder / "runs" / str(index)

    def _read(self, index: int) -> BaselineResult:
        return read_baseline(self._run_dir(index)) or BaselineResult(reason="has not ended")

    def _value(self, result: BaselineResult) -> float:
        value = result.metrics.get(self.metric)
        return math.inf if value is None or not math.isfinite(value) else self.sign * value

    def _best(self, results: Sequence[BaselineResult]) -> int | None:
        values = [math.inf if result.reason else self._value(result) for result in results]
        return values.index(min(values)) if any(map(math.isfinite, values)) else None

    def _best_of(self, index: int, value: float) -> float:
        earlier = [self._value(self._read(each)) for each in range(index)]
        return self.sign * min([self.sign * value, *earlier])

    def _mean_with(self, earlier: Sequence[int], value: float, step: int) -> float:
        """Return the mean of the random seeds at a step."""
        logs = [dict(_curve(self._run_dir(index), self.metric)) for index in earlier]
        return statistics.fmean([value, *(log[step] for log in logs if step in log)])

    def _has_model(self, best: int) -> bool:
        return any((place / "final").is_dir() for place in (self._run_dir(best), self.folder))

    def _publish(self, best: int) -> None:
        """Make the trial's directory one of its best run, with the trained model."""
        copy_run_files(self._run_dir(best), self.folder)
        if not (self.folder / "final").is_dir():
            (self._run_dir(best) / "final").rename(self.folder / "final")

    def _summarize(
        self,
        settings: Sequence[Mapping[str, Any]],
        tuned: Sequence[BaselineResult],
        best: int,
        repeated: Sequence[BaselineResult],
    ) -> TrialOutput:
        every = [result.metrics for result in repeated]
        runs = [
            {"values": dict(chosen), "value": result.metrics.get(self.metric), "reason": result.reason}
            for chosen, result in zip(settings, tuned, strict=True)
        ]
        attrs: TrialAttrs = {}
        if any(settings):
            attrs |= {"tuned": dict(settings[best]), "runs": runs}
        if len(every) > 1:
            attrs |= {"seed_metrics": _by_metric(every), "std": _combine(every, statistics.stdev)}
        return TrialOutput(mean_metrics(every), attrs)


def copy_run_files(run: Path, folder: Path) -> None:
    """Copy the records of a run into the directory of its trial."""
    for name in _FILES:
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)


def mean_metrics(every: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric that all have."""
    return _combine(every, statistics.fmean)


def _by_metric(every: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the values of each metric that differs between the random seeds."""
    return {name: [one[name] for one in every] for name in _combine(every, statistics.stdev)}


def _combine(every: Sequence[Mapping[str, float]], combine: Callable[[list[float]], float]) -> dict[str, float]:
    """Return one number for each metric that all have; costs, which do not differ, stay as they are."""
    common = [name for name in every[0] if all(name in one for one in every)]
    values = {name: [one[name] for one in every] for name in common}
    if combine is statistics.fmean:
        return {name: v[0] if all(x == v[0] for x in v) else combine(v) for name, v in values.items()}
    return {name: combine(v) for name, v in values.items() if any(x != v[0] for x in v)}


class _ShiftedJudge:
    """Reports a run of several as steps after those of the runs before it."""

    def __init__(self, judge: Judge, steps_before: int, combine: Callable[[float, int], float]) -> None:
        self.judge, self.steps_before, self.combine = judge, steps_before, combine
        self.reported = -1

    def report(self, value: float, step: int) -> None:
        """Report the results of the trial."""
        if step > self.reported:  # a run that continues from a checkpoint evaluates some steps again
            self.judge.report(self.combine(value, step), self.steps_before + step)
            self.reported = step

    def should_prune(self) -> bool:
        """Ask the judge."""
        return self.judge.should_prune()

    def report_earlier(self, run: Path, metric: str, *, has_ended: bool) -> None:
        """Report the evaluations of a run that has ended, or of one that continues from its checkpoint."""
        last = math.inf if has_ended else checkpoint_step(run) or 0
        for step, value in _curve(run, metric):
            if step <= last:
                self.report(value, step)


def _curve(run: Path, metric: str) -> list[tuple[int, float]]:
    records = training_metrics.read(run) if (run / "metrics.jsonl").is_file() else []
    return [(int(record["step"]), record[metric]) for record in records if record.get(metric) is not None]
