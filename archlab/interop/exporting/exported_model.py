"""The trained model that an export writes: its experiment, tensors, tokens, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from archlab.config.experiment import Experiment, load
from archlab.data.tokenizers import ModelTokens
from archlab.errors import ArchlabError
from archlab.interop.exporting.training_parts import leave_out_training_parts
from archlab.interop.standalone.render import module_name
from archlab.modeling.backbone import is_causal, is_per_sample
from archlab.modeling.build import build, build_on_meta
from archlab.storage.checkpoint import latest_checkpoint
from archlab.storage.model_tokens import read_tokens
from archlab.storage.provenance import provenance_of
from archlab.storage.run_state import read_state
from archlab.storage.safetensors_header import read_header
from archlab.storage.snapshot import read_verified
from archlab.storage.stored_tensors import StoredTensors
from archlab.storage.tensors import copy_into
from archlab.storage.trained_model import PUBLISHED, find_model
from archlab.storage.trained_task import find_tokens

WEIGHTS, _EXPERIMENT, _STATE = "model.safetensors", "experiment.yaml", "state.json"


@dataclass(frozen=True)
class ExportedModel:
    """A trained model as it was read from a checkpoint, all of one version.

    `tensors` map the file and hold no memory until they are read. `note` describes a run that did not reach its end,
    and is otherwise empty.
    """

    checkpoint: Path
    experiment: Experiment
    tensors: Mapping[str, Tensor] = field(repr=False)
    tokens: ModelTokens | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def module(self) -> str:
        """The name of the Python module that the architecture is written to."""
        return module_name(self.experiment.name)

    @property
    def reads_tokens(self) -> bool:
        """Whether its inputs are tokens rather than real values."""
        return self.vocab_size is not None

    @property
    def vocab_size(self) -> int | None:
        """The number of different tokens, or None for other inputs."""
        size: int | None = self.experiment.model.knobs.get("vocab_size")
        return size

    def on_meta(self) -> nn.Module:
        """Return the model without values."""
        return build_on_meta(self.experiment.model)

    def is_stream(self) -> bool:
        """Whether it gives logits for each token that depend on no later one, and so can be called token by token."""
        model = self.on_meta()
        return self.reads_tokens and is_causal(model) and not is_per_sample(model)

    def load(self) -> nn.Module:
        """Return the model with its weights, in evaluation mode."""
        model = build(self.experiment.model)
        model.tokens = self.tokens  # type: ignore[assignment]
        copy_into(model, self.tensors, self.checkpoint / WEIGHTS)
        return model.eval()


def read_model(folder: Path, origin: Mapping[str, Any] | None = None) -> ExportedModel:
    """Return the model of a run, search, checkpoint or import; of an interrupted run, that of its last checkpoint.

    `origin` is added to its provenance. Raises ArchlabError for a directory without a model, or a damaged one.
    """
    weights, home = _find(folder)
    return read_verified(weights, lambda place: _read(place, home, origin or {}))


def _find(folder: Path) -> tuple[Path, Path]:
    """Return the directories of a model's weights and of its experiment."""
    is_published = any((folder / name / WEIGHTS).is_file() for name in PUBLISHED)
    if is_published or not (folder / "checkpoints").is_dir():
        return find_model(folder)
    last = latest_checkpoint(folder / "checkpoints")
    return find_model(folder if last is None else last)


def _read(weights: Path, home: Path, origin: Mapping[str, Any]) -> ExportedModel:
    experiment = load(home / _EXPERIMENT, recorded=True)
    known, note = provenance_of(home), ""
    if weights != home:
        step = read_state(weights / _STATE).step
        known |= {"step": step}
        note = f"of step {step}, the last checkpoint of a run that has not ended"
        if (home / "final" / WEIGHTS).is_file():
            note = ""
    tokens = read_tokens(home / "tokens") or find_tokens(home)
    experiment, tensors = leave_out_training_parts(experiment, _tensors(weights))
    return ExportedModel(weights, experiment, tensors, tokens, {**known, **origin}, note)


def _tensors(weights: Path) -> Mapping[str, Tensor]:
    file = weights / WEIGHTS
    if not file.is_file():  # of an interrupted run, whose ranks have written parts
        return StoredTensors(weights)
    read_header(file)
    try:
        return load_file(file)
    except (OSError, ValueError, RuntimeError) as error:
        raise ArchlabError(f"{file}: cannot be read: {error}") from error
