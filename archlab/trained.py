"""Trained models on disk: a published checkpoint, or the run or search that holds one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from archlab import checkpoint
from archlab.config import Experiment, load
from archlab.errors import ArchlabError
from archlab.model import build

PUBLISHED = ("", "best", "final")


def locate(folder: Path) -> Path:
    """Return the published checkpoint that a folder is, or holds as best/ or final/."""
    for name in PUBLISHED:
        if (folder / name / "model.safetensors").is_file() and (folder / name / "experiment.yaml").is_file():
            return folder / name
    what = "holds no trained model (model.safetensors and experiment.yaml)" if folder.is_dir() else "is no folder"
    raise ArchlabError(f"{folder}: {what}")


def load_trained(folder: Path, device: str | torch.device = "cpu") -> tuple[Experiment, nn.Module]:
    """Return experiment and model of a published checkpoint, a run or a search; raise ArchlabError if damaged."""
    place = locate(folder)
    checkpoint.verify(place)
    experiment = load(place / "experiment.yaml")
    model = build(experiment.model, device)
    checkpoint.load_weights(place, model)
    return experiment, model.eval()
