"""Checkpoints: all that a run needs to go on exactly, and the weights that it publishes."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from archlab.errors import ArchlabError
from archlab.storage.files import atomic_dir, remove_dir_atomic, write_text
from archlab.storage.manifest import integrity_error, verify, write_manifest
from archlab.storage.optimizer_state import groups_of, restore_optimizer, tensors_of
from archlab.storage.renamed_tensors import former_names, has_former_names
from archlab.storage.tensors import copy_into, named_tensors, read_tensors, write_tensors

__all__ = ["latest_checkpoint", "load_checkpoint", "load_weights", "save_checkpoint", "save_model", "verify"]

_log = logging.getLogger(__name__)
_WEIGHTS, _OPTIMIZER, _RNG, _STATE = "model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: Optimizer, extra: Mapping[str, Any], *, keep: int
) -> Path:
    """Write folder/step_00000100, then remove all but the newest `keep`; `extra` is plain JSON data.

    Checkpoints of later steps, left by a run that was started over, are removed as well.
    """
    path = folder / f"step_{step:08d}"
    state = {"step": step, "extra": dict(extra), "optimizer": groups_of(model, optimizer)}
    with atomic_dir(path, replace=True) as partial:
        write_tensors(partial / _WEIGHTS, named_tensors(model))
        write_tensors(partial / _OPTIMIZER, tensors_of(model, optimizer))
        write_tensors(partial / _RNG, _random_states())
        write_text(partial / _STATE, json.dumps(state, indent=2))
        write_manifest(partial)
    steps = _steps(folder)
    for old in [number for number in steps if number > step] + [number for number in steps if number <= step][keep:]:
        remove_dir_atomic(steps[old])
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole, and log a warning where a newer one is damaged.

    Returns None where there is no checkpoint; raises ArchlabError where there are some and none is whole.
    """
    damaged: list[str] = []
    for path in _steps(folder).values():
        problem = integrity_error(path)
        if problem is None:
            if damaged:
                _log.warning("damaged checkpoint passed over, going on from %s: %s", path.name, "; ".join(damaged))
            return path
        damaged.append(f"{path.name}: {problem}")
    if damaged:
        raise ArchlabError(f"{folder}: no checkpoint is whole: {'; '.join(damaged)}")
    return None


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Put weights, optimizer and random numbers back bit for bit; return `extra` with `step`."""
    state = _read_state(path / _STATE)
    moments, random_states = read_tensors(path / _OPTIMIZER), read_tensors(path / _RNG)
    load_weights(path, model)
    restore_optimizer(model, optimizer, moments, state["optimizer"], path)
    _set_random_states(random_states)
    return {**state["extra"], "step": state["step"]}


def load_weights(path: Path, model: nn.Module) -> None:
    """Give a model the weights of a checkpoint; raise ArchlabError, changing nothing, where they do not fit."""
    tensors = read_tensors(path / _WEIGHTS)
    if has_former_names(tensors, former_names(model)):
        root = _root(path)
        raise ArchlabError(
            f"{path / _WEIGHTS}: its tensors have names of an earlier version; run archlab migrate {root}"
        )
    copy_into(model, tensors, path / _WEIGHTS)


def _root(path: Path) -> Path:
    """Return the run or search that a checkpoint belongs to, or the checkpoint where it stands alone."""
    owners = [place for place in (path, *path.parents[:4]) if _is_owner(place)]
    return owners[-1] if owners else path


def _is_owner(place: Path) -> bool:
    return (place / "experiment.yaml").is_file() or (place / "search.yaml").is_file()


def save_model(
    folder: Path,
    model: nn.Module,
    experiment_resolved: Mapping[str, Any],
    provenance: Mapping[str, Any],
    beside: Sequence[Path] = (),
) -> None:
    """Write a folder that stands alone: weights, the experiment that made them, where they come from, and files."""
    with atomic_dir(folder, replace=True) as partial:
        write_tensors(partial / _WEIGHTS, named_tensors(model))
        write_text(partial / "experiment.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(experiment_resolved))))
        write_text(partial / "provenance.json", json.dumps(dict(provenance), indent=2))
        for file in beside:
            shutil.copyfile(file, partial / file.name)
        write_manifest(partial)


def _steps(folder: Path) -> dict[int, Path]:
    """Map step to checkpoint, newest first."""
    found = {int(path.name[5:]): path for path in folder.glob("step_*/") if re.fullmatch(r"step_\d+", path.name)}
    return dict(sorted(found.items(), reverse=True))


def _read_state(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text())
        return {key: state[key] for key in ("step", "extra", "optimizer")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchlabError(f"{file}: not the state of a checkpoint") from error


def _random_states() -> dict[str, Tensor]:
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), **{f"cuda.{place}": state for place, state in enumerate(on_gpu)}}


def _set_random_states(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for place in range(torch.cuda.device_count()):
        if f"cuda.{place}" in states:
            torch.cuda.set_rng_state(states[f"cuda.{place}"], place)
