"""The task of a trained model, whose tokens mean what they meant when the model was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from archlab.config.experiment import Experiment, parse_override, read
from archlab.config.spec import Spec
from archlab.data.task import Task
from archlab.data.tokenizers.model_tokens import UNKNOWN_TOKENS, ModelTokens
from archlab.errors import ArchlabError, ConfigError
from archlab.storage.find_model import is_export
from archlab.storage.model_tokens import read_tokens, task_knobs
from archlab.storage.provenance import provenance_of

_SOURCE = "command line"
_UNKNOWN = (
    "the model was imported without a tokenizer, so the meaning of its tokens is unknown; "
    "name it, as in task.tokenizer=/data/tokenizer.json"
)


def load_experiment(checkpoint_dir: Path, overrides: Sequence[str]) -> tuple[Experiment, ModelTokens | None]:
    """Return the experiment of a published checkpoint or an export, with the model's tokens, and what these mean.

    An older checkpoint does not carry its tokenizer: its task reads the tokenizer that it was trained with, and the
    second value is None if that is not known. Raises ConfigError for an override of the model, and for a task whose
    tokens mean something else.
    """
    given = dict(map(parse_override, overrides))
    file = checkpoint_dir / ("config.yaml" if is_export(checkpoint_dir) else "experiment.yaml")
    for path in given:
        if path.startswith("model"):
            raise ConfigError(path, "cannot be changed: the model is trained", _SOURCE)
    experiment = read(file, overrides, recorded=True).resolve()
    tokens, is_other_task = read_tokens(checkpoint_dir), any(path.startswith("task") for path in given)
    if tokens is not None:
        knobs = task_knobs(tokens, checkpoint_dir)
    else:
        tokens, knobs = _trained_with(read(file, recorded=True).resolve(), checkpoint_dir, is_other_task)
    if is_other_task and tokens is not None:
        _require_same(experiment, tokens, knobs, _named_knobs(given))
    if tokens == UNKNOWN_TOKENS and is_other_task:
        knobs = _default_settings(experiment.task)
    own = {name: value for name, value in knobs.items() if name not in _named_knobs(given)}
    return replace(experiment, task=with_knobs(experiment.task, own)), tokens


def find_tokens(checkpoint_dir: Path) -> ModelTokens | None:
    """Return what the tokens of a published checkpoint mean; of an older one, what its task says they do."""
    tokens = read_tokens(checkpoint_dir)
    return (
        tokens
        or _trained_with(read(checkpoint_dir / "experiment.yaml", recorded=True).resolve(), checkpoint_dir, True)[0]
    )


def with_knobs(task: Spec, values: Mapping[str, Any]) -> Spec:
    """Return a task with other values of those knobs that it has."""
    return replace(task, knobs={**task.knobs, **{name: values[name] for name in values if name in task.knobs}})


def _default_settings(task: Spec) -> Mapping[str, Any]:
    """Return the settings of a tokenizer that is named for a model which was imported without: those of an import."""
    named: Task = task.factory()()
    tokens = named.model_tokens()
    return {"special_tokens": tokens is not None and tokens.kind == "tokenizer"}


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
    # The default, once, of a model that was imported without a tokenizer.
    if name == "bytes" and "imported_from" in provenance_of(checkpoint_dir):
        return UNKNOWN_TOKENS, {"tokenizer": None}
    if isinstance(name, str) and name == Path(name).name and (checkpoint_dir / name).is_file():
        name = str(checkpoint_dir / name)
    special_tokens = trained.task.knobs.get("special_tokens", False)
    knobs = {} if name in (None, "words") else {"tokenizer": name, "special_tokens": special_tokens}
    return (_meaning(replace(trained, task=with_knobs(trained.task, knobs))) if needs_meaning else None), knobs


def _meaning(trained: Experiment) -> ModelTokens | None:
    task: Task = trained.task.factory()()
    try:
        return task.model_tokens()
    except ArchlabError:  # its tokenizer or corpus is gone: then the meaning is what the command line says
        return None


def _require_same(experiment: Experiment, tokens: ModelTokens, knobs: Mapping[str, Any], named: set[str]) -> None:
    """Raise ConfigError if a task's tokens mean something else; of a model whose tokens are unknown, unless named."""
    is_named, can_name = "tokenizer" in named, "tokenizer" in experiment.task.knobs
    path = "task.tokenizer" if is_named else "task"
    if tokens == UNKNOWN_TOKENS and can_name:
        if not is_named:
            raise ConfigError("task.tokenizer", _UNKNOWN, _SOURCE)
        return
    # Without the model's setting of special tokens, which another tokenizer may not have.
    own = {} if is_named else {name: knobs[name] for name in ("tokenizer",) if name in knobs}
    spec = with_knobs(experiment.task, own)
    task: Task = spec.factory()()
    meaning = task.model_tokens()
    if meaning is None or not meaning.is_same(tokens):
        theirs = f"the tokens of the task {spec.name!r} are {meaning or 'real values'}"
        advice = "; without task.tokenizer, its own tokenizer reads the text" if can_name else ""
        raise ConfigError(path, f"{theirs}, but the model's tokens are {tokens}{advice}", _SOURCE)
