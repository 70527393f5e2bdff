"""Checkpoint directories of the transformers library, read and written without the library."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from archlab.config.spec import Spec
from archlab.data.tokenizers import ModelTokens
from archlab.errors import ArchlabError
from archlab.interop._tensors import check_tensors, export_tensors, load_tensors
from archlab.interop.hugging_face.config_json import HFConfig, find_model_type, read_config
from archlab.interop.hugging_face.match import Match, match, match_model_type
from archlab.interop.hugging_face.tensor_files import (
    StoredTensor,
    common_dtype,
    iter_tensors,
    read_headers,
    without_buffers,
)
from archlab.interop.hugging_face.tokenizer import TOKENIZER, find_tokens
from archlab.interop.hugging_face.weights import Names, by_their_names, stored_name, weights_of
from archlab.modeling.build import build, build_on_meta
from archlab.storage.files import atomic_dir, write_bytes, write_text
from archlab.storage.manifest import write_manifest
from archlab.storage.targets import require_target
from archlab.storage.tensors import write_tensors

_log = logging.getLogger(__name__)


def load_pretrained(directory: str | Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Return the model of a transformers checkpoint directory, in the dtype that holds its tensors or another.

    Raises ArchlabError naming the file, field or tensor that is missing, damaged, or cannot be represented.
    """
    folder = Path(directory)
    config = read_config(folder)
    spec, stored = config.to_spec(), read_headers(folder)
    try:
        # Before anything is built: a number of layers that the files do not hold. Then on the meta device, without
        # memory: sizes that the tensors do not have.
        _require_all(config, stored)
        expected = Names(_build_on_meta(spec, config), config, stored)
        stored = _without_unread(without_buffers(stored, expected.all), config)
        check_tensors(expected.all, _on_meta(stored), config.format.from_hf, optional=expected.tied)
        model = build_in_dtype(spec, dtype or common_dtype(stored))
        names = Names(model, config, stored)
        tied_by = f"{config.file.name} (tie_word_embeddings, which is true)"
        load_tensors(names.all, iter_tensors(stored), config.format.from_hf, names.tied, tied_by)
    except ArchlabError as error:
        raise ArchlabError(f"{folder}: {error}") from error
    model.tokens = _tokens(folder)  # type: ignore[assignment]
    return model.eval()


def _tokens(folder: Path) -> ModelTokens | None:
    """Return the vocabulary for `save_pretrained`; weights can be saved without one, and without its library."""
    if not (folder / TOKENIZER).is_file():
        return None
    try:
        return find_tokens(folder)
    except ArchlabError as error:
        _log.warning("%s; the model is loaded without it", error)
        return None


def _require_all(config: HFConfig, stored: Mapping[str, StoredTensor]) -> None:
    for name in config.format.key_map(config.fields):
        if stored_name(name, config.format, stored) not in stored:
            raise ArchlabError(f"tensor {name!r} is missing")


def _without_unread(stored: Mapping[str, StoredTensor], config: HFConfig) -> dict[str, StoredTensor]:
    """Return the tensors without those of parts that transformers omits as well; log a warning about them."""
    is_unread = config.format.unread or (lambda fields, name: False)
    kept = {name: tensor for name, tensor in stored.items() if not is_unread(config.fields, name)}
    if first := next((name for name in stored if name not in kept), None):
        count = len(stored) - len(kept)
        _log.warning(
            "%s: leaves %d tensors unread, as transformers does: %r and so on", config.file.parent, count, first
        )
    return kept


def _build_on_meta(spec: Spec, config: HFConfig) -> nn.Module:
    try:
        return build_on_meta(spec)
    except ArchlabError as error:
        raise ArchlabError(f"{config.file.name} gives no model: {error}") from error


def _on_meta(stored: Mapping[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in stored.items():
        yield name, torch.empty(tensor.info.shape, dtype=tensor.info.dtype, device="meta")


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
    found = match_model_type(spec) if model_type is None else match(spec, model_type, str(folder))
    check = require_target(folder, "pretrained", force=force)
    with atomic_dir(folder, replace=True, check=check) as partial:
        write_pretrained(model, found, partial)
        for name, data in _tokenizer_files(model).items():
            write_bytes(partial / name, data)
        write_manifest(partial, "pretrained")
    return folder


def write_pretrained(
    model: nn.Module,
    found: Match,
    folder: Path,
    write: Callable[[Path, Mapping[str, Tensor]], None] | None = None,
) -> None:
    """Write a model's config.json and weights, as a `model_type` that it matches, into an existing directory.

    `write` writes the tensors; the default is to one file.
    """
    target = find_model_type(found.model_type, str(folder))
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    header = {"architectures": [target.architecture], "model_type": found.model_type, "dtype": dtype}
    # A null by default says nothing, and transformers warns of some that it does not expect.
    fields = {k: v for k, v in found.fields.items() if v is not None or target.fields.get(k) is not None}
    parameters = by_their_names(_add_shifts(model, found.shifts), target, found.fields)
    tensors = export_tensors(parameters, target.to_hf)
    write_text(folder / "config.json", json.dumps({**header, **fields}, indent=2) + "\n")
    if write is None:
        write_tensors(folder / "model.safetensors", tensors, metadata={"format": "pt"})
    else:
        write(folder, tensors)


def _tokenizer_files(model: nn.Module) -> Mapping[str, bytes]:
    tokens = getattr(model, "tokens", None)  # of a model that was loaded, not of one that was built
    return tokens.files if isinstance(tokens, ModelTokens) and tokens.kind == "tokenizer" else {}


def _add_shifts(model: nn.Module, shifts: Mapping[str, float]) -> dict[str, Tensor]:
    """Return the parameters with numbers added; raise ArchlabError for a dtype in which the sum would be rounded."""
    own = weights_of(model)
    for name, shift in shifts.items():
        if own[name].dtype.itemsize < torch.float32.itemsize:
            raise ArchlabError(f"{name}: 1 + weight is rounded in {own[name].dtype}; save the model as float32")
        own[name] = own[name].detach() + shift
    return own


def build_in_dtype(spec: Spec, dtype: torch.dtype) -> nn.Module:
    """Build a model in a dtype; converting one built in float32 would briefly hold both copies."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return build(spec)
    finally:
        torch.set_default_dtype(default)
