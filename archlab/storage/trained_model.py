"""Trained models on disk: a published checkpoint, or the run or search that holds one."""

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
    """Return the published checkpoint that a folder is, or holds as best/ or final/."""
    for name in PUBLISHED:
        if (folder / name / "model.safetensors").is_file() and (folder / name / "experiment.yaml").is_file():
            return folder / name
    what = "holds no trained model (model.safetensors and experiment.yaml)" if folder.is_dir() else "is no folder"
    raise ArchlabError(f"{folder}: {what}")


def _load(place: Path, overrides: Sequence[str]) -> Experiment:
    """Return the experiment of a checkpoint, where its task names files beside it by their whole paths."""
    raw = read(place / "experiment.yaml", overrides)
    for override in overrides:
        if override.startswith("model"):
            raise ConfigError(override.partition("=")[0], "cannot be changed: the model is trained", "command line")
    named = raw.resolve().task.knobs.items()
    beside = {
        f"task.{knob}": str(place / name) for knob, name in named if isinstance(name, str) and _is_file(place, name)
    }
    return raw.override(beside, str(place)).resolve()


def _is_file(place: Path, name: str) -> bool:
    return name == Path(name).name and (place / name).is_file()


def load_trained(
    folder: Path, device: str | torch.device = "cpu", overrides: Sequence[str] = ()
) -> tuple[Experiment, nn.Module]:
    """Return experiment and model of a published checkpoint, a run or a search; raise ArchlabError if damaged.

    Overrides may change what the model is asked, its task and settings, but not the model.
    """
    place = find_checkpoint(folder)
    checkpoint.verify(place)
    experiment = _load(place, overrides)
    model = build(experiment.model, device)
    checkpoint.load_weights(place, model)
    return experiment, model.eval()
