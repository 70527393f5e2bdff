"""Checkpoint directories of the transformers library, read and written without the library."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from archlab.config.spec import Spec
from archlab.data.tokenizers import ModelTokens
from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields
from archlab.interop._tensors import export_tensors, load_tensors
from archlab.interop.hugging_face.config_json import find_model_type, read_config
from archlab.interop.hugging_face.match import match_model_type, to_hf_fields
from archlab.interop.hugging_face.tensor_files import find_tensor_files, first_dtype, iter_tensors
from archlab.interop.hugging_face.tokenizer import TOKENIZER, find_tokens
from archlab.modeling.build import build
from archlab.storage.files import atomic_dir, write_bytes, write_text
from archlab.storage.manifest import write_manifest
from archlab.storage.targets import require_target
from archlab.storage.tensors import write_tensors

_log = logging.getLogger(__name__)
_HEADS = ("lm_head.weight", "head.weight")


def load_pretrained(directory: str | Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Return the model of a transformers checkpoint directory, in its tensors' dtype or another.

    Raises ArchlabError naming the file, field or tensor that is missing, damaged, or cannot be represented.
    """
    folder = Path(directory)
    config = read_config(folder)
    files = find_tensor_files(folder)
    model = _build_in_dtype(config.to_spec(), dtype or first_dtype(files))
    parameters = _parameters_by_name(model, config.format, config.fields)
    tied = _tied_head(model, parameters)
    try:
        load_tensors(parameters | tied, iter_tensors(files), config.format.from_hf, optional=tied)
    except ArchlabError as error:
        raise ArchlabError(f"{folder}: {error}") from error
    model.tokens = _tokens(folder)  # type: ignore[assignment]
    return model.eval()


def _tokens(folder: Path) -> ModelTokens | None:
    """Return what the tokens mean, for `save_pretrained`; weights are of use without, and without its library."""
    if not (folder / TOKENIZER).is_file():
        return None
    try:
        return find_tokens(folder)
    except ArchlabError as error:
        _log.warning("%s; the model is loaded without it", error)
        return None


def describe_pretrained(directory: str | Path) -> Spec:
    """Return the spec of a checkpoint directory's model, from its config.json alone."""
    return read_config(Path(directory)).to_spec()


def save_pretrained(
    model: nn.Module, directory: str | Path, model_type: str | None = None, *, force: bool = False
) -> Path:
    """Write a model as a directory that transformers loads, of the first `model_type` that fits unless one is named.

    The model's tokenizer.json is written too, if it has one (`model.tokens`).
    Returns the directory. Raises ArchlabError naming the first part of the model that a `model_type` does not have,
    or a directory that is not empty.
    """
    folder, spec = Path(directory), getattr(model, "spec", None)
    if not isinstance(spec, Spec):
        raise ArchlabError(f"{folder}: this model was not built from a spec, which its config.json is derived from")
    if model_type is None:
        model_type, fields = match_model_type(spec)
    else:
        fields = to_hf_fields(spec, model_type, str(folder))
    target = find_model_type(model_type, str(folder))
    check = require_target(folder, "pretrained", force=force)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    header = {"architectures": [target.architecture], "model_type": model_type, "dtype": dtype}
    tensors = export_tensors(_parameters_by_name(model, target, fields), target.to_hf)
    with atomic_dir(folder, replace=True, check=check) as partial:
        write_tensors(partial / "model.safetensors", tensors, metadata={"format": "pt"})
        write_text(partial / "config.json", json.dumps({**header, **fields}, indent=2) + "\n")
        for name, data in _tokenizer_files(model).items():
            write_bytes(partial / name, data)
        write_manifest(partial, "pretrained")
    return folder


def _tokenizer_files(model: nn.Module) -> Mapping[str, bytes]:
    tokens = getattr(model, "tokens", None)  # of a model that was loaded, not of one that was built
    return tokens.files if isinstance(tokens, ModelTokens) and tokens.kind == "tokenizer" else {}


def _parameters_by_name(model: nn.Module, target: CheckpointFormat, fields: Fields) -> dict[str, list[nn.Parameter]]:
    own = dict(model.named_parameters())
    key_map = {theirs: (ours,) if isinstance(ours, str) else ours for theirs, ours in target.key_map(fields).items()}
    parameters = {theirs: [own[name] for name in several] for theirs, several in key_map.items()}
    assert sum(map(len, parameters.values())) == len(own), f"no name for one of {sorted(own)}"
    return parameters


def _tied_head(model: nn.Module, parameters: Mapping[str, object]) -> dict[str, list[nn.Parameter]]:
    """Return the embedding under each name by which a checkpoint may repeat it as the head, if the head is tied."""
    own = dict(model.named_parameters())
    if "embedding.weight" not in own or "head.weight" in own:
        return {}
    return {name: [own["embedding.weight"]] for name in _HEADS if name not in parameters}


def _build_in_dtype(spec: Spec, dtype: torch.dtype) -> nn.Module:
    """Build a model in a dtype; converting one built in float32 would briefly hold both copies."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return build(spec)
    finally:
        torch.set_default_dtype(default)
