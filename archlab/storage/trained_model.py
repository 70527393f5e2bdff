"""Trained models on disk: a published checkpoint, or the run or search that contains one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError
from archlab.modeling.build import build
from archlab.storage import checkpoint
from archlab.storage.run_identity import require_model_of
from archlab.storage.snapshot import read_verified
from archlab.storage.trained_task import load_experiment

PUBLISHED = ("", "best", "final")


def find_checkpoint(folder: Path) -> Path:
    """Return the published checkpoint of a directory: the directory itself, or its best/ or final/."""
    for name in PUBLISHED:
        if (folder / name / "model.safetensors").is_file() and (folder / name / "experiment.yaml").is_file():
            if name:
                require_model_of(folder, folder / name)
            return folder / name
    problem = "holds no trained model (model.safetensors and experiment.yaml)" if folder.is_dir() else "is no folder"
    raise ArchlabError(f"{folder}: {problem}")


def load_trained(
    folder: Path, device: str | torch.device = "cpu", overrides: Sequence[str] = ()
) -> tuple[Experiment, nn.Module]:
    """Return experiment and model of a published checkpoint, a run or a search; raise ArchlabError if damaged.

    Both are of one version, also where another process replaces the checkpoint meanwhile.
    Overrides may change the task and the settings of training, but neither the model nor what its tokens mean. The
    experiment's task reads the tokenizer that the model carries, which `model.tokens` describes.
    """
    return read_verified(find_checkpoint(folder), lambda checkpoint_dir: _load_model(checkpoint_dir, device, overrides))


def _load_model(
    checkpoint_dir: Path, device: str | torch.device, overrides: Sequence[str]
) -> tuple[Experiment, nn.Module]:
    experiment, tokens = load_experiment(checkpoint_dir, overrides)
    model = build(experiment.model, device)
    model.tokens = tokens  # type: ignore[assignment]
    checkpoint.load_weights(checkpoint_dir, model)
    return experiment, model.eval()
