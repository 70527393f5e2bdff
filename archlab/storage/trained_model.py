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
from archlab.storage.find_model import is_export, run_of_checkpoint, why_no_model
from archlab.storage.identity import require_same
from archlab.storage.run_identity import RUN_FILE, read_run_identity, require_model_of
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
    raise ArchlabError(f"{folder}: {why_no_model(folder)}")


def find_model(folder: Path) -> tuple[Path, Path]:
    """Return the directory of a model's weights, and that of its experiment, which a run's checkpoint leaves there."""
    run = run_of_checkpoint(folder)
    if run is None:
        return (found := find_checkpoint(folder)), found
    require_same(checkpoint.read_checkpoint_identity(folder), folder, read_run_identity(run), run / RUN_FILE)
    return folder, run


def load_trained(
    folder: Path, device: str | torch.device = "cpu", overrides: Sequence[str] = ()
) -> tuple[Experiment, nn.Module]:
    """Return experiment and model of a checkpoint, a run or a search; raise ArchlabError if damaged.

    Both are of one version, also where another process replaces the checkpoint meanwhile.
    Overrides may change the task and the settings of training, but neither the model nor what its tokens mean. The
    experiment's task reads the tokenizer that the model carries, which `model.tokens` describes.
    """
    weights, home = find_model(folder)
    return read_verified(weights, lambda place: _load_model(place, home, device, overrides))


def load_trained_or_export(
    folder: Path, device: str | torch.device = "cpu", overrides: Sequence[str] = ()
) -> tuple[Experiment, nn.Module]:
    """Return the same of an export, too, which is measured as what it was exported from."""
    if not is_export(folder):
        return load_trained(folder, device, overrides)
    return read_verified(folder, lambda place: _load_model(place, folder, device, overrides))


def _load_model(
    checkpoint_dir: Path, home: Path, device: str | torch.device, overrides: Sequence[str]
) -> tuple[Experiment, nn.Module]:
    experiment, tokens = load_experiment(home, overrides)
    model = build(experiment.model, device)
    model.tokens = tokens  # type: ignore[assignment]
    checkpoint.load_weights(checkpoint_dir, model)
    return experiment, model.eval()
