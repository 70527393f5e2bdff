"""Checkpoints of a training run, from which it resumes bit for bit, and published models."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from archlab.config.yaml_writer import format_yaml
from archlab.errors import ArchlabError
from archlab.storage.files import atomic_dir, remove_dir_atomic, write_text
from archlab.storage.manifest import integrity_error, verify, write_manifest
from archlab.storage.optimizer_state import groups_of, restore_optimizer, tensors_of
from archlab.storage.renamed_tensors import former_names, has_former_names
from archlab.storage.tensors import copy_into, named_tensors, read_tensors, write_tensors
from archlab.text import shell_path

__all__ = ["latest_checkpoint", "load_checkpoint", "load_weights", "save_checkpoint", "save_model", "verify"]

_log = logging.getLogger(__name__)
_WEIGHTS, _OPTIMIZER, _RNG, _STATE = "model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: Optimizer, extra: Mapping[str, Any], *, keep: int
) -> Path:
    """Write folder/step_00000100, then delete all but the newest `keep`; `extra` is JSON data.

    Checkpoints of later steps, which a run that was started over has left, are deleted as well.
    """
    path = folder / f"step_{step:08d}"
    state = {"step": step, "extra": dict(extra), "optimizer": groups_of(model, optimizer)}
    with atomic_dir(path, replace=True) as partial:
        write_tensors(partial / _WEIGHTS, named_tensors(model))
        write_tensors(partial / _OPTIMIZER, tensors_of(model, optimizer))
        write_tensors(partial / _RNG, _random_states())
        write_text(partial / _STATE, json.dumps(state, indent=2))
        write_manifest(partial)
    # After the new one is complete: until then the old ones are all that a crash leaves to resume from.
    steps = _steps(folder)
    for old in [number for number in steps if number > step] + [number for number in steps if number <= step][keep:]:
        remove_dir_atomic(steps[old])
    return path


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest intact checkpoint, and log a warning if a newer one is damaged.

    Returns None if there is no checkpoint; raises ArchlabError if all of them are damaged.
    """
    damaged: list[str] = []
    for path in _steps(folder).values():
        problem = integrity_error(path)
        if problem is None:
            if damaged:
                _log.warning("damaged checkpoint skipped, resuming from %s: %s", path.name, "; ".join(damaged))
            return path
        damaged.append(f"{path.name}: {problem}")
    if damaged:
        raise ArchlabError(f"{folder}: no checkpoint is intact: {'; '.join(damaged)}")
    return None


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Restore weights, optimizer and random number generators bit for bit; return `extra` with `step`."""
    # All files are read before anything is restored, so that a damaged one changes nothing.
    state = _read_state(path / _STATE)
    moments, random_states = read_tensors(path / _OPTIMIZER), read_tensors(path / _RNG)
    load_weights(path, model)
    restore_optimizer(model, optimizer, moments, state["optimizer"], path)
    _set_random_states(random_states)
    return {**state["extra"], "step": state["step"]}


def load_weights(path: Path, model: nn.Module) -> None:
    """Load a checkpoint's weights into a model; raise ArchlabError, changing nothing, if they do not fit."""
    tensors = read_tensors(path / _WEIGHTS)
    if has_former_names(tensors, former_names(model)):
        root = _root(path)
        raise ArchlabError(
            f"{path / _WEIGHTS}: its tensors have names of an earlier version; run archlab migrate {shell_path(root)}"
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
    extra_files: Sequence[Path] = (),
) -> None:
    """Write a self-contained model directory: weights, resolved experiment, provenance, and `extra_files`."""
    with atomic_dir(folder, replace=True) as partial:
        write_tensors(partial / _WEIGHTS, named_tensors(model))
        write_text(partial / "experiment.yaml", format_yaml(experiment_resolved))
        write_text(partial / "provenance.json", json.dumps(dict(provenance), indent=2))
        for file in extra_files:
            shutil.copyfile(file, partial / file.name)
        write_manifest(partial)


def _steps(folder: Path) -> dict[int, Path]:
    """Map step to checkpoint directory, newest first."""
    steps = {int(path.name[5:]): path for path in folder.glob("step_*/") if re.fullmatch(r"step_\d+", path.name)}
    return dict(sorted(steps.items(), reverse=True))


def _read_state(file: Path) -> dict[str, Any]:
    try:
        state = json.loads(file.read_text())
        return {key: state[key] for key in ("step", "extra", "optimizer")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArchlabError(f"{file}: not the state of a checkpoint") from error


def _random_states() -> dict[str, Tensor]:
    # is_initialized and not is_available: asking for the state would create a CUDA context in a run on the CPU.
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), **{f"cuda.{index}": state for index, state in enumerate(on_gpu)}}


def _set_random_states(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda.{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda.{index}"], index)
