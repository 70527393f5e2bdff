"""The vocabulary of a run, stored at its start: the tokenizer may move, and the corpus grow, before its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from archlab.config.experiment import Experiment
from archlab.data.task import Task
from archlab.data.tokenizers import MissingTokenizerError, ModelTokens
from archlab.errors import ArchlabError
from archlab.storage.model_tokens import read_tokens, task_knobs, write_tokens
from archlab.storage.trained_task import with_knobs

_NAME = "tokens"  # a directory of the run


def keep_run_tokens(experiment: Experiment, folder: Path, resume: bool) -> None:
    """Write the vocabulary of an experiment into its run's directory, unless a resumed run has it already."""
    if resume and read_run_tokens(folder) is not None:
        return
    tokens = _meaning(experiment)
    if tokens is not None:
        write_tokens(folder / _NAME, tokens)


def read_run_tokens(folder: Path) -> ModelTokens | None:
    """Return the vocabulary of a run, or None for real values and for an older run without a record."""
    return read_tokens(folder / _NAME)


def use_run_tokens(experiment: Experiment, folder: Path) -> Experiment:
    """Return the experiment with a task that reads the tokenizer of its run, whatever has become of the original.

    Raises ArchlabError if the original is there and its tokens are others.
    """
    tokens = read_run_tokens(folder)
    if tokens is None:
        return experiment
    try:
        meaning = _meaning(experiment)
    except MissingTokenizerError:
        meaning = tokens
    if meaning is None or not meaning.is_same(tokens):
        raise ArchlabError(f"{folder}: the run's tokens are {tokens}, but those of its task are now {meaning}")
    return replace(experiment, task=with_knobs(experiment.task, task_knobs(tokens, folder / _NAME)))


def _meaning(experiment: Experiment) -> ModelTokens | None:
    task: Task = experiment.task.factory()()
    return task.model_tokens()
