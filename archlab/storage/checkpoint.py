"""Checkpoints of a training run, from which it resumes bit for bit, and published models."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from archlab.config.yaml_writer import format_yaml
from archlab.data.tokenizers.model_tokens import ModelTokens
from archlab.errors import ArchlabError
from archlab.modeling.optimizer import StateShapes, at_average, leave_average
from archlab.storage.files import atomic_dir, remove_dir_atomic, write_bytes, write_text
from archlab.storage.identity import Identity, identity_in
from archlab.storage.manifest import integrity_error, verify, write_manifest
from archlab.storage.model_tokens import token_files
from archlab.storage.optimizer_state import check_optimizer, groups_of, restore_optimizer, tensors_of
from archlab.storage.ownership import listed_dir, require_listed
from archlab.storage.renamed_tensors import former_names, has_former_names
from archlab.storage.run_state import check_random_states, random_states, read_state, set_random_states
from archlab.storage.stored_tensors import OPTIMIZER, StoredTensors
from archlab.storage.tensor_parts import fit_stored, load_into, load_named, read_parts
from archlab.storage.tensors import TensorFit, named_tensors, read_tensors, write_tensors
from archlab.text import shell_path

__all__ = ["latest_checkpoint", "load_checkpoint", "load_weights", "save_checkpoint", "save_model", "verify"]

_log = logging.getLogger(__name__)
_WEIGHTS, _OPTIMIZER, RNG, STATE = "model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json"


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    extra: Mapping[str, Any],
    *,
    keep: int,
    keep_steps: Sequence[int] = (),
) -> Path:
    """Write folder/step_00000100 of a model that is not divided, then `rotate`; `extra` is JSON data."""
    path = folder / f"step_{step:08d}"
    with at_average(optimizer), atomic_dir(path, replace=True, check=require_listed) as partial:
        write_tensors(partial / _WEIGHTS, named_tensors(model))
        write_tensors(partial / _OPTIMIZER, tensors_of(model, optimizer))
        write_tensors(partial / RNG, random_states())
        write_text(partial / STATE, json.dumps(state_of(step, model, optimizer, extra), indent=2))
        write_manifest(partial, "checkpoint")
    rotate(folder, step, keep, keep_steps)
    return path


def state_of(step: int, model: nn.Module, optimizer: Optimizer, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of state.json."""
    return {"step": step, "extra": dict(extra), "optimizer": groups_of(model, optimizer)}


def rotate(folder: Path, step: int, keep: int, keep_steps: Sequence[int]) -> None:
    """Delete all checkpoints but the newest `keep`, until that of a step, and `keep_steps`.

    Those of later steps, which a run that was started over has left, are deleted as well.
    """
    # After the new one is complete: until then the old ones are all that a crash leaves to resume from.
    steps = checkpoints(folder)
    earlier = [number for number in steps if number <= step][keep:]
    for old in [number for number in steps if number > step] + [n for n in earlier if n not in keep_steps]:
        _remove_own(steps[old])


def _remove_own(old: Path) -> None:
    foreign = listed_dir(old)
    if foreign is None:
        remove_dir_atomic(old)
    else:
        _log.warning("%s is kept: archlab did not write %s", old, foreign)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest intact checkpoint, and log a warning if a newer one is damaged.

    Returns None if there is no checkpoint; raises ArchlabError if all of them are damaged.
    """
    damaged: list[str] = []
    for path in checkpoints(folder).values():
        problem = integrity_error(path)
        if problem is None:
            if damaged:
                _log.warning("damaged checkpoint skipped, resuming from %s: %s", path.name, "; ".join(damaged))
            return path
        damaged.append(f"{path.name}: {problem}")
    if damaged:
        raise ArchlabError(f"{folder}: no checkpoint is intact: {'; '.join(damaged)}")
    return None


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, shapes: StateShapes | None = None
) -> dict[str, Any]:
    """Restore weights, optimizer and random number generators bit for bit; return `extra` with `step`.

    `shapes` are those of `saved_shapes`; without them the optimizer is one of torch's own.
    Raises ArchlabError for a file that does not fit, before anything but the weights is changed.
    """
    # All files are read before anything is restored, so that a damaged one changes nothing.
    state = read_state(path / STATE)
    moments = read_parts(model, StoredTensors(path, OPTIMIZER))
    random_states = read_tensors(path / RNG)
    check_random_states(random_states, path / RNG)
    check_optimizer(model, optimizer, moments, state.optimizer, path, shapes)
    load_weights(path, model)
    restore_optimizer(model, optimizer, moments, state.optimizer)
    leave_average(optimizer)
    set_random_states(random_states)
    return {**state.extra, "step": state.step}


def read_checkpoint_identity(path: Path) -> Identity:
    """Return the identity of the run that a checkpoint belongs to, empty for one of an earlier version."""
    return identity_in(read_state(path / STATE).extra, path / STATE)


def load_weights(path: Path, model: nn.Module) -> None:
    """Load a checkpoint's weights into a model; raise ArchlabError, changing nothing, if they do not fit."""
    stored = StoredTensors(path)
    _require_present_names(stored, model, stored.source)
    load_into(model, stored)


def check_weights(path: Path, model: nn.Module) -> TensorFit:
    """Return how the weights of a checkpoint fit a model, by names and shapes alone; the model may be on meta.

    Raises ArchlabError if the file is damaged or its tensors have names of an earlier version.
    """
    stored = StoredTensors(path)
    _require_present_names(stored, model, stored.source)
    return fit_stored(model, stored)


def load_matching_weights(path: Path, model: nn.Module) -> None:
    """Load those of a checkpoint's tensors that match the model's in name, kind and shape; the others stay."""
    stored = StoredTensors(path)
    load_named(model, stored, fit_stored(model, stored).matching)


def _require_present_names(tensors: Iterable[str], model: nn.Module, source: Path) -> None:
    if has_former_names(tensors, former_names(model)):
        root = _root(source.parent if source.is_file() else source)
        raise ArchlabError(
            f"{source}: its tensors have names of an earlier version; run archlab migrate {shell_path(root)}"
        )


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
    tokens: ModelTokens | None = None,
    *,
    kind: str = "model",
    check: Callable[[Path], None] = require_listed,
    weights: StoredTensors | None = None,
) -> None:
    """Write a self-contained model directory: weights, resolved experiment, provenance, and vocabulary.

    `check` raises for an earlier directory that must stay; the default is one with files that archlab did not write.
    `weights` are the model's, in a checkpoint, where it is divided among processes.
    """
    with atomic_dir(folder, replace=True, check=check) as partial:
        if weights is None:
            write_tensors(partial / _WEIGHTS, named_tensors(model))
        else:
            weights.write_whole(partial / _WEIGHTS)
        write_text(partial / "experiment.yaml", format_yaml(experiment_resolved))
        write_text(partial / "provenance.json", json.dumps(dict(provenance), indent=2))
        for name, data in token_files(tokens).items():
            write_bytes(partial / name, data)
        write_manifest(partial, kind)


def checkpoints(folder: Path) -> dict[int, Path]:
    """Return the checkpoints in a directory by their steps, newest first."""
    found = (path for path in folder.glob("step_*/") if re.fullmatch(r"step_\d{1,18}", path.name))
    steps = {int(path.name[5:]): path for path in found if not path.is_symlink()}
    return dict(sorted(steps.items(), reverse=True))
