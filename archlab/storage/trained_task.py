"""The task of a trained model, whose tokens mean what they meant when the model was trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from archlab.config.experiment import Experiment, parse_override, read
from archlab.config.spec import Spec
from archlab.data.task import Task
from archlab.data.tokenizers.model_tokens import UNKNOWN_TOKENS, ModelTokens
from archlab.errors import ArchlabError, ConfigError
from archlab.storage.model_tokens import read_tokens, task_knobs

_SOURCE = "command line"


def load_experiment(checkpoint_dir: Path, overrides: Sequence[str]) -> tuple[Experiment, ModelTokens | None]:
    """Return the experiment of a published checkpoint, whose task has the model's tokens, and what these mean.

    An older checkpoint does not carry its tokenizer: its task reads the tokenizer that it was trained with, and the
    second value is None if that is not known. Raises ConfigError for an override of the model, and for a task whose
    tokens mean something else.
    """
    file, given = checkpoint_dir / "experiment.yaml", dict(map(parse_override, overrides))
    for path in given:
        if path.startswith("model"):
            raise ConfigError(path, "cannot be changed: the model is trained", _SOURCE)
    experiment = read(file, overrides).resolve()
    tokens, is_other_task = read_tokens(checkpoint_dir), any(path.startswith("task") for path in given)
    if tokens is not None:
        knobs = task_knobs(tokens, checkpoint_dir)
    else:
        tokens, knobs = _trained_with(read(file).resolve(), checkpoint_dir, is_other_task)
    named = _named_knobs(given)
    if tokens == UNKNOWN_TOKENS and is_other_task:
        if "tokenizer" not in named:
            raise ConfigError("task.tokenizer", f"{_UNKNOWN}; {_HOW_TO_NAME}", _SOURCE)
        return experiment, tokens
    task = with_knobs(experiment.task, {name: value for name, value in knobs.items() if name not in named})
    experiment = replace(experiment, task=task)
    if is_other_task and tokens is not None:
        _require_same(experiment, tokens, "task.tokenizer" if "tokenizer" in named else "task")
    return experiment, tokens


_UNKNOWN = "the model was imported without a tokenizer, so that nobody knows what its tokens mean"
_HOW_TO_NAME = "name it, as in task.tokenizer=/data/tokenizer.json"


def with_knobs(task: Spec, values: Mapping[str, Any]) -> Spec:
    """Return a task with other values of those knobs that it has."""
    return replace(task, knobs={**task.knobs, **{name: values[name] for name in values if name in task.knobs}})


def _named_knobs(given: Mapping[str, Any]) -> set[str]:
    """Return the knobs of the task that overrides name, one by one or as a whole task."""
    whole = given.get("task")
    single = {path.removeprefix("task.") for path in given if path.startswith("task.")}
    return single | (set(whole) if isinstance(whole, Mapping) else set())


def _trained_with(
    trained: Experiment, checkpoint_dir: Path, needs_meaning: bool
) -> tuple[ModelTokens | None, Mapping[str, Any]]:
    """Return what the tokens of a checkpoint without tokens.json mean, and the knobs of its task that say so."""
    name = trained.task.knobs.get("tokenizer")
    if name == "bytes" and _is_imported(checkpoint_dir):  # which was the default for a model without a tokenizer
        return UNKNOWN_TOKENS, {"tokenizer": None}
    if isinstance(name, str) and name == Path(name).name and (checkpoint_dir / name).is_file():
        name = str(checkpoint_dir / name)
    knobs = {} if name in (None, "words") else {"tokenizer": name}
    return (_meaning(replace(trained, task=with_knobs(trained.task, knobs))) if needs_meaning else None), knobs


def _meaning(trained: Experiment) -> ModelTokens | None:
    task: Task = trained.task.factory()()
    try:
        return task.model_tokens()
    except ArchlabError:  # its tokenizer or corpus is gone: then the meaning is what the command line says
        return None


def _is_imported(checkpoint_dir: Path) -> bool:
    file = checkpoint_dir / "provenance.json"
    try:
        return file.is_file() and "imported_from" in json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _require_same(experiment: Experiment, tokens: ModelTokens, path: str) -> None:
    task: Task = experiment.task.factory()()
    meaning = task.model_tokens()
    if meaning is None or not meaning.is_same(tokens):
        own = f"the model's tokens are {tokens}"
        problem = f"the tokens of the task {experiment.task.name!r} are {meaning or 'real values'}, but {own}"
        raise ConfigError(path, problem + _advice(experiment.task), _SOURCE)


def _advice(task: Spec) -> str:
    return "; without task.tokenizer, its own tokenizer reads the text" if "tokenizer" in task.knobs else ""
