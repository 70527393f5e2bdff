"""Loss by context: a model's gain from longer contexts, over lengths and positions, as in Megalodon's figure 5.

B rows, L context, T tokens read at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from archlab.config.experiment import Experiment
from archlab.data.task import Task
from archlab.errors import ArchlabError, ConfigError
from archlab.inference.evaluate import autocast
from archlab.inference.suite import Curve, Setting, SuiteProgress, SuiteRequest, SuiteResult
from archlab.inference.token_stream import CHUNK
from archlab.inference.window_source import SplitSource, TextSource, WindowSource
from archlab.inference.windows import Windows
from archlab.modeling.backbone import is_causal
from archlab.modeling.build import device_of, eval_mode, validate
from archlab.modeling.loss import token_losses
from archlab.modeling.state import State
from archlab.ops.linear_cross_entropy import IGNORED
from archlab.runtime.mixed_precision import resolve_precision

_SHORTEST = 1024  # of a model that was trained on no shorter one
_LOSS = "loss, nats per token"
_MANY = 16  # windows that the curve by position is averaged over, at least


def loss_by_context(
    model: nn.Module, experiment: Experiment, request: SuiteRequest, progress: SuiteProgress
) -> SuiteResult:
    """Return the loss of the same tokens in windows of 1,024, 2,048, ... tokens, and by position in long ones.

    A model that was trained on shorter contexts begins with its own. Windows are read as streams, some thousand tokens
    at a time. Raises ArchlabError for a model or a task that predicts no stream of tokens, and for data of less than
    one window.
    """
    request.require_only("context", "split", "text", "max_tokens", "max_context")
    task: Task = experiment.task.factory()()
    _require_stream(experiment, model, task)
    source = (
        SplitSource(task, request.split, experiment.task.name)
        if request.text is None
        else TextSource(task, request.text)
    )
    lengths, notes = _lengths(experiment, source, request)
    longest = lengths[-1]
    num_targets = max(source.num_targets(longest, request.max_tokens) // longest, 1) * longest
    precision = resolve_precision(experiment.train.precision, device_of(model))
    measured = list[Windows]()
    for length in lengths:
        report = partial(_tell, progress, lengths, num_targets, len(measured))
        with eval_mode(model), torch.no_grad(), autocast(model, precision):
            windows = Windows(length, keeps_losses=not measured)  # the others are compared with the shortest
            _measure(model, source, windows, num_targets, report)
            measured.append(windows)
    settings: dict[str, Setting] = {
        "data": source.name,
        "targets": num_targets,
        "trained_context": experiment.train.context,
        "precision": precision,
    }
    return SuiteResult("context", settings, num_targets * len(lengths), tuple(_curves(measured)), notes=notes)


def _tell(progress: SuiteProgress, lengths: Sequence[int], num_targets: int, passes: int, done: int) -> None:
    label = f"contexts of {lengths[0]:,} to {lengths[-1]:,}"
    progress(label, passes * num_targets + done, len(lengths) * num_targets)


def _curves(measured: Sequence[Windows]) -> Iterator[Curve]:
    shortest, *longer = measured
    make = partial(Curve, unit="windows", log=True)
    by_length = [(float(each.length), each.mean()) for each in measured]
    yield make("context", "Loss by context length", "context, tokens", _LOSS, points=by_length)
    if longer:
        gains = [(float(each.length), each.gain_over(shortest)) for each in longer]
        title = f"Gain over contexts of {shortest.length:,}, on the same tokens"
        yield make("gain", title, "context, tokens", "gain, nats per token", points=gains)
    many = [each for each in measured if each.num_windows >= _MANY] or [shortest]
    title = f"Loss by position in windows of {many[-1].length:,}"
    yield make("position", title, "position", _LOSS, points=many[-1].by_position())


def _require_stream(experiment: Experiment, model: nn.Module, task: Task) -> None:
    if task.vocab_size is None or task.per_sample or not task.predicts_next:
        raise ArchlabError(f"the suite context needs a text to predict; the task {experiment.task.name!r} has none")
    if not is_causal(model):
        raise ArchlabError("the suite context needs a causal model; this one sees later tokens")


def _lengths(experiment: Experiment, source: WindowSource, request: SuiteRequest) -> tuple[list[int], list[str]]:
    """Return the contexts to measure, and why there are no longer ones where the model is the reason."""
    shortest = 1 << (min(_SHORTEST, experiment.train.context).bit_length() - 1)
    available = source.num_targets(shortest, request.max_tokens)
    if available < shortest:
        problem = f"has {available:,} tokens to predict; the suite context needs {shortest:,}"
        raise ArchlabError(f"{source.name} {problem}")
    limit, lengths = min(available, request.max_context or available), list[int]()
    for power in range(limit.bit_length()):
        length = shortest << power
        if length > limit:
            break
        try:
            validate(replace(experiment, train=replace(experiment.train, context=length)))
        except ConfigError as error:
            if not lengths:
                raise
            return lengths, [f"no context of {length:,} or more: {error.problem}"]
        lengths.append(length)
    if not lengths:
        raise ArchlabError(f"--max-context {limit:,}: the shortest context is {shortest:,}")
    return lengths, []


def _measure(
    model: nn.Module, source: WindowSource, windows: Windows, num_targets: int, report: Callable[[int], None]
) -> None:
    """Read a text in windows of a length, some windows at a time, or one piece by piece."""
    length, rows = windows.length, max(CHUNK // windows.length, 1)
    for inputs_BL, targets_BL in source.batches(rows, length, num_targets):
        state: State | None = None
        for first in range(0, length, CHUNK):
            inputs_BT, targets_BT = (x[:, first : first + CHUNK].to(device_of(model)) for x in (inputs_BL, targets_BL))
            losses_BT, state = token_losses(model, inputs_BT, targets_BT, state)
            windows.add(first, losses_BT.double().cpu().numpy(), (targets_BT != IGNORED).cpu().numpy())
            report(windows.num_targets)


SUITE = loss_by_context
