"""A run that starts from another run's checkpoint: checks of their settings, and loading.

`weights` starts over with them, as for fine-tuning; `everything` is the continuation of the other run, bit for
bit, under the schedule and the length of this one, as for the decays that branch off a run of the schedule wsd.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from archlab.config.diff import first_difference
from archlab.config.experiment import Experiment, load
from archlab.config.spec import Spec
from archlab.config.start_from import StartFrom
from archlab.config.train_config import TrainConfig
from archlab.data.task import Task
from archlab.data.tokenizers import MissingTokenizerError
from archlab.data.tokenizers.model_tokens import UNKNOWN_TOKENS, ModelTokens
from archlab.errors import ConfigError
from archlab.modeling.build import build, build_on_meta
from archlab.storage.checkpoint import check_weights, load_matching_weights, load_weights
from archlab.storage.manifest import verify
from archlab.storage.snapshot import read_verified
from archlab.storage.start_point import StartPoint, find_start
from archlab.storage.stored_tensors import StoredTensors
from archlab.storage.targets import require_apart
from archlab.training.data_identity import data_identity, require_same_data
from archlab.training.grow import grow_weights, plan_growth
from archlab.training.step import TrainStep

_PATH = "train.start_from"
# Settings that a continued run may change. With any other setting, a later version's too, the optimizer's state and the
# position in the data would have another meaning.
_FREE = {
    *("steps", "budget", "lr", "warmup", "warmup_fraction", "schedule", "end_lr_ratio", "decay_fraction", "clip"),
    *(
        "precision",
        "compile",
        "checkpoint_activations",
        "device",
        "log_every",
        "tensorboard",
        "loggers",
        "profile",
        "start_from",
    ),
    *("eval_every", "eval_tokens", "checkpoint_every", "checkpoint_at", "keep_checkpoints"),
    *("batch_size", "accumulate"),  # whose product counts
}
_MAX_NAMED = 3
_log = logging.getLogger(__name__)


def check_start(experiment: Experiment, model: nn.Module | None = None, *, out: Path | None = None) -> None:
    """Raise ArchlabError unless a run can start from the checkpoint that its experiment names, if it names one.

    `model` is that of `validate`. For a run in the directory `out` checksums are compared as well, which take a while.
    """
    start = experiment.train.start_from
    if start is None:
        return
    try:
        point = find_start(start)
        _check_weights(point, start, model or build_on_meta(experiment.model))
        _check_tokens(point, experiment)
        if start.load == "everything":
            _check_continued(point, experiment)
        if out is not None:
            _check_content(point, start, experiment, out)
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, error.source or experiment.source) from error


def _check_content(point: StartPoint, start: StartFrom, experiment: Experiment, out: Path) -> None:
    require_apart(out, [point.folder])
    verify(point.folder)
    if start.load == "everything":
        require_same_data(point.data, data_identity(experiment.task.factory()()), point.folder)
    if start.match == "grow":  # whether the function stays the same only values tell: before a directory is taken
        grow_weights(StoredTensors(point.folder), _earlier(point), build(experiment.model))


def settings_of_start(train: TrainConfig) -> dict[str, str]:
    """Return `auto` settings as the run resolved them that this one continues, for it to be the same bit for bit."""
    start = train.start_from
    if start is None or start.load == "weights":
        return {}
    file = find_start(start).experiment_file
    earlier = load(file, recorded=True).train if file else train
    return {key: getattr(earlier, key) for key in ("precision", "compile") if getattr(train, key) == "auto"}


def load_start(start: StartFrom, train_step: TrainStep) -> dict[str, Any]:
    """Load a checkpoint into a run's first step, and return the run's record of its start."""
    point = find_start(start)
    if start.load == "everything":
        read_verified(point.folder, train_step.load)
        return {**point.origin(), "load": start.load}
    not_loaded = {}
    if start.match == "grow":
        earlier = _earlier(point)
        grown = read_verified(
            point.folder, lambda folder: grow_weights(StoredTensors(folder), earlier, train_step.model)
        )
        _log.warning("%s: %s", point.folder, grown)
        return {**point.origin(), "load": start.load, "grown": str(grown)}
    if start.match == "strict":
        read_verified(point.folder, lambda folder: load_weights(folder, train_step.model))
    else:
        not_loaded = _names_not_loaded(point, train_step.model)
        read_verified(point.folder, lambda folder: load_matching_weights(folder, train_step.model))
    return {**point.origin(), "load": start.load, **({"not_loaded": not_loaded} if not_loaded else {})}


def _earlier(point: StartPoint) -> Spec:
    """Return the spec of the model that a checkpoint is of."""
    if point.experiment_file is None:
        problem = f"{str(point.folder)!r} does not identify its model; name its run"
        raise ConfigError(f"{_PATH}.checkpoint", problem)
    return load(point.experiment_file, recorded=True).model


def _names_not_loaded(point: StartPoint, model: nn.Module) -> dict[str, list[str]]:
    """Return the names of the model's tensors that keep their initial values and of those of the checkpoint left."""
    fit = check_weights(point.folder, model)
    initial, unused = [*fit.missing, *fit.different], list(fit.unexpected)
    if initial or unused:
        _log.warning(
            "%s: %d tensors are loaded; %s; %s",
            point.folder,
            len(fit.matching),
            f"{len(initial)} of the model keep their initial values{_some(initial)}",
            f"{len(unused)} of the checkpoint are not used{_some(unused)}",
        )
    return {key: names for key, names in (("initial", initial), ("unused", unused)) if names}


def _some(names: Sequence[str]) -> str:
    if not names:
        return ""
    rest = len(names) - _MAX_NAMED
    return f" ({', '.join(names[:_MAX_NAMED])}{f' and {rest} more' if rest > 0 else ''})"


def _check_weights(point: StartPoint, start: StartFrom, model: nn.Module) -> None:
    fit = check_weights(point.folder, model)
    if start.match == "grow":
        plan_growth(_earlier(point), model)
        return
    if start.match == "strict" and not fit.is_exact:
        advice = (
            "" if start.load == "everything" else "; match: names loads matching tensors, match: grow a smaller model"
        )
        raise ConfigError(f"{_PATH}.checkpoint", f"{start.checkpoint!r} does not fit the model: {fit}{advice}")
    if not fit.matching:
        raise ConfigError(f"{_PATH}.checkpoint", f"{start.checkpoint!r} has no tensor that fits the model: {fit}")


def _check_tokens(point: StartPoint, experiment: Experiment) -> None:
    theirs, own = point.tokens(), _tokens_of(experiment)
    if theirs is None or own is None or theirs == UNKNOWN_TOKENS or own.is_same(theirs):
        return
    advice = f"; task.tokenizer={point.tokens_file} reads the text as that model does" if point.tokens_file else ""
    problem = f"the tokens of {experiment.train.start_from and experiment.train.start_from.checkpoint!r} are {theirs}"
    raise ConfigError(f"{_PATH}.checkpoint", f"{problem}, but those of the task are {own}{advice}")


def _tokens_of(experiment: Experiment) -> ModelTokens | None:
    task: Task = experiment.task.factory()()
    try:
        return task.model_tokens()
    except MissingTokenizerError:  # which training reports
        return None


def _check_continued(point: StartPoint, experiment: Experiment) -> None:
    """Raise ConfigError where a run would not be the continuation of the one that it starts from."""
    train, step = experiment.train, point.step
    if train.budget is None and train.steps <= step:
        raise ConfigError("train.steps", f"{train.steps} is not past step {step}, from which the run starts")
    for index, extra in enumerate(train.checkpoint_at or ()):
        if extra <= step:
            raise ConfigError(f"train.checkpoint_at[{index}]", f"{extra} is not past step {step}, where the run starts")
    if point.experiment_file is None:
        return
    other = load(point.experiment_file, recorded=True)
    difference = first_difference(_continued_settings(other), _continued_settings(experiment))
    if difference:
        raise ConfigError(f"{_PATH}.load", f"everything of {point.folder} cannot be continued: {difference}")


def _continued_settings(experiment: Experiment) -> Mapping[str, Any]:
    train = experiment.train
    settings = {key: value for key, value in train.to_plain().items() if key not in _FREE}
    return {
        "model": experiment.model.to_plain(),
        "train": {"batch_size * accumulate": train.batch_size * train.accumulate, **settings},
    }


def with_absolute_start(experiment: Experiment) -> Experiment:
    """Return an experiment whose checkpoint to start from is an absolute path, as a run records it."""
    train = experiment.train
    if train.start_from is None:
        return experiment
    return replace(experiment, train=replace(train, start_from=train.start_from.absolute()))
