"""Trained models on disk: a published checkpoint, or the run or search that contains one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from archlab.config.experiment import Experiment, read
from archlab.errors import ArchlabError, ConfigError
from archlab.modeling.build import build
from archlab.storage import checkpoint

PUBLISHED = ("", "best", "final")


def find_checkpoint(folder: Path) -> Path:
    """Return the published checkpoint of a directory: the directory itself, or its best/ or final/."""
    for name in PUBLISHED:
        if (folder / name / "model.safetensors").is_file() and (folder / name / "experiment.yaml").is_file():
            return folder / name
    problem = "holds no trained model (model.safetensors and experiment.yaml)" if folder.is_dir() else "is no folder"
    raise ArchlabError(f"{folder}: {problem}")


def _load(checkpoint_dir: Path, overrides: Sequence[str]) -> Experiment:
    """Return the experiment of a checkpoint, with absolute paths for the task's files that lie beside it."""
    raw = read(checkpoint_dir / "experiment.yaml", overrides, recorded=True)
    for override in overrides:
        if override.startswith("model"):
            raise ConfigError(override.partition("=")[0], "cannot be changed: the model is trained", "command line")
    # A published model has copies of such files, as of a tokenizer, and names them without a directory.
    knobs = raw.resolve().task.knobs.items()
    files = {
        f"task.{knob}": str(checkpoint_dir / name)
        for knob, name in knobs
        if isinstance(name, str) and _is_file_of(checkpoint_dir, name)
    }
    return raw.override(files, str(checkpoint_dir)).resolve()


def _is_file_of(folder: Path, name: str) -> bool:
    return name == Path(name).name and (folder / name).is_file()


def load_trained(
    folder: Path, device: str | torch.device = "cpu", overrides: Sequence[str] = ()
) -> tuple[Experiment, nn.Module]:
    """Return experiment and model of a published checkpoint, a run or a search; raise ArchlabError if damaged.

    Overrides may change the task and the settings of training, but not the model.
    """
    checkpoint_dir = find_checkpoint(folder)
    checkpoint.verify(checkpoint_dir)
    experiment = _load(checkpoint_dir, overrides)
    model = build(experiment.model, device)
    checkpoint.load_weights(checkpoint_dir, model)
    return experiment, model.eval()
