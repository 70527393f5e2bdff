"""The checkpoint from which a new run starts: one of a run's, or a published model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.config.start_from import StartFrom
from archlab.data.tokenizers.model_tokens import ModelTokens
from archlab.errors import ArchlabError, ConfigError
from archlab.storage.checkpoint import checkpoints, latest_checkpoint
from archlab.storage.find_model import is_export
from archlab.storage.identity import Identity, identity_in
from archlab.storage.manifest import read_manifest
from archlab.storage.model_tokens import read_tokens
from archlab.storage.provenance import PROVENANCE, provenance_of
from archlab.storage.run_state import read_state
from archlab.storage.stored_tensors import MODEL, WEIGHT_INDEX, is_part_file
from archlab.storage.trained_model import PUBLISHED, find_checkpoint
from archlab.storage.trained_task import find_tokens

_PATH = "train.start_from"
_WEIGHTS, _STATE, _EXPERIMENT = "model.safetensors", "state.json", "experiment.yaml"
_CONFIG = "config.yaml"  # of an export
_MAX_NAMED = 20


@dataclass(frozen=True)
class StartPoint:
    """A checkpoint on disk; one of a run, which has an optimizer's state, or a published model, which has none."""

    folder: Path

    @property
    def has_state(self) -> bool:
        """Whether optimizer, step and random state are there beside the weights."""
        return (self.folder / _STATE).is_file()

    @property
    def step(self) -> int:
        """The number of optimizer steps after which it was saved, 0 where that is not known."""
        step = read_state(self.folder / _STATE).step if self.has_state else provenance_of(self.folder).get("step", 0)
        return int(step)

    @property
    def data(self) -> Any:
        """The identity of the run's data, from its checkpoint."""
        return read_state(self.folder / _STATE).extra.get("data", {})

    @property
    def experiment_file(self) -> Path | None:
        """The experiment that it was trained by, or None for a checkpoint that was taken out of its run."""
        files = (self._owner / _EXPERIMENT, self._owner / _CONFIG)
        return next((file for file in files if file.is_file()), None)

    @property
    def _owner(self) -> Path:
        return self.folder.parent.parent if self.has_state else self.folder

    def tokens(self) -> ModelTokens | None:
        """Return what the model's tokens mean, or None for real values and if it is unknown."""
        if not self.has_state:
            return read_tokens(self.folder) if is_export(self.folder) else find_tokens(self.folder)
        return read_tokens(self._owner / "tokens")

    @property
    def tokens_file(self) -> Path | None:
        """The file that defines the model's tokens, if there is one."""
        tokens, folder = self.tokens(), self._owner / "tokens" if self.has_state else self.folder
        file = folder / (tokens.file or "") if tokens else folder
        return file if file.is_file() else None

    def origin(self) -> dict[str, Any]:
        """Return what a new run remembers of it: its place, run, step, and the SHA-256 of its weights."""
        try:
            files = read_manifest(self.folder).files
            sha256 = _sha256_of_weights({name: sha256 for name, (_, sha256) in files.items()})
        except (OSError, ValueError, KeyError) as error:
            raise ArchlabError(f"{self.folder}: has no manifest that lists {_WEIGHTS}") from error
        run = self._identity().get("run", "")
        return {"checkpoint": str(self.folder), **({"run": run} if run else {}), "step": self.step, "sha256": sha256}

    def _identity(self) -> Identity:
        if self.has_state:
            return identity_in(read_state(self.folder / _STATE).extra, self.folder / _STATE)
        return identity_in(provenance_of(self.folder), self.folder / PROVENANCE)


def _sha256_of_weights(files: Mapping[str, str]) -> str:
    """Return the SHA-256 of a checkpoint's weights, of parts that of the list of theirs; raise KeyError for none."""
    parts = [f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()) if is_part_file(name, MODEL)]
    if parts:
        return hashlib.sha256("".join(parts).encode()).hexdigest()
    return files[WEIGHT_INDEX if WEIGHT_INDEX in files else _WEIGHTS]


def find_start(start: StartFrom) -> StartPoint:
    """Return the checkpoint that a run starts from; raise ArchlabError naming those that are there instead."""
    folder = Path(start.absolute().checkpoint)
    if not folder.is_dir():
        raise ConfigError(f"{_PATH}.checkpoint", f"{start.checkpoint!r} is not a directory")
    if (folder / _STATE).is_file():
        return _require_step(StartPoint(folder), start)
    place = folder if checkpoints(folder) else folder / "checkpoints"
    known = checkpoints(place)
    if start.step is not None and start.step in known:
        return StartPoint(known[start.step])
    if start.load == "everything" or (known and start.step is None and not _is_published(folder)):
        return _last(place, start, known)
    if known and start.step is not None:
        return _final_of_step(folder, start, known)
    return _require_step(StartPoint(_find_published(folder, start)), start)


def _is_published(folder: Path) -> bool:
    return is_export(folder) or any((folder / name / _WEIGHTS).is_file() for name in PUBLISHED)


def _find_published(folder: Path, start: StartFrom) -> Path:
    if not _is_published(folder):
        problem = f"{start.checkpoint!r} holds no checkpoint and no trained model ({_WEIGHTS})"
        raise ConfigError(f"{_PATH}.checkpoint", problem)
    return folder if is_export(folder) else find_checkpoint(folder)


def _final_of_step(run: Path, start: StartFrom, known: dict[int, Path]) -> StartPoint:
    """Return the trained model of a run whose checkpoints are of other steps, if it is of the step that is asked."""
    final = StartPoint(run / "final")
    if (final.folder / _WEIGHTS).is_file() and final.step == start.step:
        return final
    raise _no_such_step(start, known)


def _last(place: Path, start: StartFrom, known: dict[int, Path]) -> StartPoint:
    if not known:
        problem = f"{start.checkpoint!r} has no checkpoint with the state of an optimizer; name a run, or load: weights"
        raise ConfigError(f"{_PATH}.load", problem)
    if start.step is not None:
        raise _no_such_step(start, known)
    last = latest_checkpoint(place)
    assert last is not None
    return StartPoint(last)


def _no_such_step(start: StartFrom, known: dict[int, Path]) -> ConfigError:
    steps = sorted(known)
    named = ", ".join(map(str, steps[-_MAX_NAMED:])) + (
        f" and {len(steps) - _MAX_NAMED} earlier" * (len(steps) > _MAX_NAMED)
    )
    return ConfigError(f"{_PATH}.step", f"{start.checkpoint!r} has no checkpoint of step {start.step}; it has {named}")


def _require_step(point: StartPoint, start: StartFrom) -> StartPoint:
    if start.step is not None and point.step != start.step:
        raise ConfigError(f"{_PATH}.step", f"{start.checkpoint!r} is of step {point.step} and not {start.step}")
    return point
