"""Accuracy of a trained model on its own task made easier and harder.

B samples, V outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import nn

from archlab.config import registry
from archlab.config.experiment import Experiment
from archlab.data.task import Task
from archlab.errors import ArchlabError, list_names
from archlab.inference.evaluate import autocast
from archlab.inference.suite import (
    Curve,
    Estimate,
    Setting,
    SuiteProgress,
    SuiteRequest,
    SuiteResult,
    estimate_of_items,
)
from archlab.inference.token_stream import CHUNK
from archlab.modeling.build import device_of, eval_mode, validate
from archlab.modeling.loss import iter_logits
from archlab.runtime.mixed_precision import resolve_precision
from archlab.storage.trained_task import with_knobs

CONTEXT = "context"  # the difficulty that is not a knob of the task
_TITLES = {"accuracy": "Accuracy", "sample_accuracy": "Samples without a mistake"}
_LONGER = 8  # times the context of training, at most, for harder samples


# A difficulty and its results.
_Point: TypeAlias = tuple[float, Mapping[str, Estimate]]


@dataclass(frozen=True)
class _Level:
    """A difficulty: the experiment whose task has it, in samples of a context."""

    knob: str
    value: float
    experiment: Experiment


def accuracy_by_difficulty(
    suite: str, model: nn.Module, experiment: Experiment, request: SuiteRequest, progress: SuiteProgress
) -> SuiteResult:
    """Return the accuracy over each difficulty that the model's own task declares, beside that of training.

    A harder sample that does not fit into the context of training has a longer one, up to eight times, if the model
    reads one. Difficulties that the task cannot make or the model cannot read are listed. Raises ArchlabError for a
    model that was trained on a task of another suite.
    """
    request.require_only(suite, "split", "limit", "max_context")
    _require_task(suite, experiment)
    levels, notes = _levels(experiment, request)
    found, tokens = dict[str, list[_Point]](), 0
    for index, level in enumerate(levels):
        progress(f"{level.knob.replace('_', ' ')} {level.value:,g}", index, len(levels))
        estimates = _measure(model, level.experiment, request)
        found.setdefault(level.knob, []).append((level.value, estimates))
        tokens += max(each.units for each in estimates.values()) * level.experiment.train.context
    settings: dict[str, Setting] = {
        "task": experiment.task.name,
        **{name: value for name, value in experiment.task.knobs.items() if isinstance(value, str | int | float)},
        "trained_context": experiment.train.context,
        "split": request.split,
    }
    return SuiteResult(suite, settings, tokens, tuple(_curves(found)), notes=notes)


def _require_task(suite: str, experiment: Experiment) -> None:
    if getattr(experiment.task.component.cls, "benchmark", "") == suite:
        return
    tasks = [name for name in registry.names("task") if _benchmark(name) == suite]
    raise ArchlabError(
        f"the suite {suite} is of models trained on {list_names(tasks)}; this one's task is {experiment.task.name!r}"
    )


def _benchmark(name: str) -> str:
    return str(getattr(registry.find("task", name).cls, "benchmark", ""))


def _levels(experiment: Experiment, request: SuiteRequest) -> tuple[list[_Level], list[str]]:
    """Return the difficulties that can be measured, in order, and why others cannot."""
    levels, notes = list[_Level](), list[str]()
    for knob, values in experiment.task.component.cls.difficulties.items():
        own = experiment.train.context if knob == CONTEXT else experiment.task.knobs[knob]
        for value in sorted({*values, own}):
            try:
                levels.append(_Level(knob, value, _with(experiment, knob, value, request)))
            except ArchlabError as error:
                notes.append(f"no {knob} of {value:,g}: {getattr(error, 'problem', error)}")
                if value > own:
                    break  # harder ones fail for the same reason
    if not levels:
        raise ArchlabError(notes[-1])
    return levels, [*_longer(levels, experiment.train.context), *notes]


def _longer(levels: Sequence[_Level], trained: int) -> Iterator[str]:
    """Yield which samples are longer than those of training, although their length is not varied."""
    longer = [each for each in levels if each.knob != CONTEXT and each.experiment.train.context > trained]
    if longer:
        listed = ", ".join(f"{each.knob} {each.value:,g} in {each.experiment.train.context:,}" for each in longer)
        yield f"Longer than the {trained:,} tokens of training: {listed}"


def _with(experiment: Experiment, knob: str, value: float, request: SuiteRequest) -> Experiment:
    """Return the experiment at a difficulty; raise ArchlabError where there is no such task, or model of it."""
    if knob == CONTEXT:
        made = replace(experiment, train=replace(experiment.train, context=int(value)))
        made.task.factory()().check(int(value))
    else:
        made = replace(experiment, task=with_knobs(experiment.task, {knob: value}))
        made = replace(made, train=replace(made.train, context=_fitting_context(made)))
    if request.max_context is not None and made.train.context > request.max_context:
        raise ArchlabError(f"needs a context of {made.train.context:,}, above --max-context {request.max_context:,}")
    validate(made)
    return made


def _fitting_context(experiment: Experiment) -> int:
    """Return the shortest context, from that of training on and doubled, in which samples fit."""
    task, context, most = experiment.task.factory()(), experiment.train.context, experiment.train.context * _LONGER
    while True:
        try:
            task.check(context)
        except ArchlabError:
            if context >= most:
                raise
            context *= 2
        else:
            return context


def _measure(model: nn.Module, experiment: Experiment, request: SuiteRequest) -> dict[str, Estimate]:
    """Return each accuracy with its interval over samples."""
    task: Task = experiment.task.factory()()
    context = experiment.train.context
    precision = resolve_precision(experiment.train.precision, device_of(model))
    most = None if request.limit is None else request.limit * context
    rows = max(4 * CHUNK // context, 1)
    pairs = dict[str, list[tuple[float, float]]]()
    with eval_mode(model), torch.no_grad(), autocast(model, precision):
        for inputs, targets in task.eval_batches(request.split, rows, context, most):
            arguments = inputs.to(device_of(model)), targets.to(device_of(model))
            for logits_BTV, asked_BT in iter_logits(model, *arguments, metrics_are_per_token=False):
                for sample in range(len(logits_BTV)):
                    metrics = task.compute_metrics(logits_BTV[sample : sample + 1], asked_BT[sample : sample + 1])
                    for name in [name for name in _TITLES if name in metrics]:
                        pairs.setdefault(name, []).append(tuple(map(float, metrics[name])))  # type: ignore[arg-type]
    return {name: estimate_of_items(*_columns(found)) for name, found in pairs.items()}


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return sums and counts of the samples that ask for something: the last batch is filled up with others."""
    kept = [pair for pair in pairs if pair[1]]
    return [total for total, _ in kept], [count for _, count in kept]


def _curves(found: Mapping[str, Sequence[_Point]]) -> Iterator[Curve]:
    for knob, points in found.items():
        words = knob.replace("_", " ")
        for metric in points[0][1]:
            along = [(float(value), each[metric]) for value, each in points]
            is_log = isinstance(points[-1][0], int)  # counts double, fractions do not
            axis, title = ("context, tokens" if knob == CONTEXT else words), f"{_TITLES[metric]} by {words}"
            yield Curve(f"{metric}_by_{knob}", title, axis, "accuracy", "samples", along, log=is_log)
