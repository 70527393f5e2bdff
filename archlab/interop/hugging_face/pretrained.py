"""Checkpoint directories of the transformers library: config.json and safetensors, without the library.

A module beside this one, named as config.json's `model_type`, says how its models map:
- ARCHITECTURE: the class that transformers loads the directory with.
- FIELDS: the fields that are read, with transformers' defaults; FIXED: those that are represented at some values alone;
  IGNORED, where it is there: fields that say nothing about the function.
- plain(config): the YAML data of the model; config(model): the way back, a guess that is checked here.
- names(config): our parameter for each of their tensors, or several that theirs joins along its first axis.
- to_ours(name, tensor) and to_theirs(name, tensor), where they are there: another layout of one tensor.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from archlab.config.diff import first_difference
from archlab.config.spec import Spec, parse
from archlab.errors import ArchlabError, ConfigError, did_you_mean, one_line
from archlab.interop._tensors import export_tensors, load_tensors
from archlab.modeling.build import build
from archlab.storage.files import atomic_dir, require_empty_dir, write_text
from archlab.storage.tensors import write_tensors

MODEL_TYPES = ("deit", "gemma", "llama", "mamba", "mamba2", "mistral", "mpt", "rwkv", "vit")
# Fields of every configuration that say how a library uses a model, not what the model computes.
# fmt: off
IGNORED = {
    "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label",
    "initializer_range", "is_encoder_decoder", "label2id", "model_type", "_name_or_path", "output_attentions",
    "output_hidden_states", "pad_token_id", "problem_type", "return_dict", "torch_dtype", "transformers_version",
    "use_cache",
}
# fmt: on
_BUFFERS = (".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias")


def load_pretrained(directory: str | Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Return the model of a transformers checkpoint directory, in its tensors' dtype or another.

    Raises ArchlabError naming the file, field or tensor that is missing, damaged, or not represented here.
    """
    folder = Path(directory)
    system, config = _configured(folder)
    files = _tensor_files(folder)
    model = _blank(_spec_of(system, config, folder), dtype or _dtype(files))
    wanted, tied = _wanted(model, system, config)
    try:
        load_tensors(wanted | tied, _read(files), getattr(system, "to_ours", None), optional=tied)
    except ArchlabError as error:
        raise ArchlabError(f"{folder}: {error}") from error
    return model.eval()


def describe_pretrained(directory: str | Path) -> Spec:
    """Return the description of a checkpoint directory's model, from its config.json alone."""
    system, config = _configured(Path(directory))
    return _spec_of(system, config, Path(directory))


def save_pretrained(
    model: nn.Module, directory: str | Path, model_type: str | None = None, *, force: bool = False
) -> Path:
    """Write a model as a directory that transformers loads, of the first type that has it unless one is given.

    Returns the directory. Raises ArchlabError naming the first part of the model that a `model_type` does not have,
    or a taken directory.
    """
    folder, spec = Path(directory), getattr(model, "spec", None)
    if not isinstance(spec, Spec):
        raise ArchlabError(f"{folder}: this model was not built from a description, which its config.json is made of")
    model_type, config = _first_fit(spec) if model_type is None else (model_type, _config_of(spec, model_type, folder))
    system = _system(model_type, str(folder))
    require_empty_dir(folder, force, "the checkpoint")
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    facts = {"architectures": [system.ARCHITECTURE], "model_type": model_type, "dtype": dtype}
    tensors = export_tensors(_wanted(model, system, config)[0], getattr(system, "to_theirs", None))
    with atomic_dir(folder, replace=True) as partial:
        write_tensors(partial / "model.safetensors", tensors, metadata={"format": "pt"})
        write_text(partial / "config.json", json.dumps({**facts, **config}, indent=2) + "\n")
    return folder


def _system(model_type: Any, source: str) -> Any:
    if model_type not in MODEL_TYPES:
        raise ArchlabError(f"{source}: no model_type {model_type!r}{did_you_mean(model_type, MODEL_TYPES)}")
    return importlib.import_module(f"{__package__}.{model_type}")


def _configured(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return the module and the fields, defaults filled in, of a directory's config.json."""
    file = folder / "config.json"
    if not file.is_file():
        what = "holds no config.json" if folder.is_dir() else "is no directory"
        raise ArchlabError(f"{folder}: {what}: give the directory of a transformers checkpoint")
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArchlabError(f"{file}: cannot be read: {one_line(error)}") from error
    if not isinstance(given, dict):
        raise ArchlabError(f"{file}: is no JSON object")
    system = _system(given.get("model_type"), str(file))
    return system, _checked(given, system, file)


def _checked(given: Mapping[str, Any], system: Any, file: Path) -> dict[str, Any]:
    known = {*system.FIELDS, *system.FIXED}
    ignored = IGNORED | set(getattr(system, "IGNORED", ()))
    for field, value in given.items():
        if field in system.FIXED and value not in system.FIXED[field]:
            told = " or ".join(map(repr, system.FIXED[field]))
            raise ArchlabError(f"{file}: {field} {value!r}: not represented, only {told} is")
        if field not in known | ignored and value is not None:
            raise ArchlabError(f"{file}: unknown field {field!r}, here {value!r}{did_you_mean(field, known)}")
    return {field: given.get(field, default) for field, default in system.FIELDS.items()}


def _spec_of(system: Any, config: Mapping[str, Any], folder: Path) -> Spec:
    try:
        return parse(system.plain(config), "backbone", "model")
    except ConfigError as error:
        raise ArchlabError(f"{folder / 'config.json'}: gives no model: {error}") from error
    except ArchlabError as error:
        raise ArchlabError(f"{folder / 'config.json'}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArchlabError(f"{folder / 'config.json'}: a field has no sense: {one_line(error)}") from error


def _wanted(
    model: nn.Module, system: Any, config: Mapping[str, Any]
) -> tuple[dict[str, list[nn.Parameter]], dict[str, list[nn.Parameter]]]:
    """Return our parameters for each of their names, and for the name under which a tied head may repeat one."""
    own = dict(model.named_parameters())
    named = {theirs: (ours,) if isinstance(ours, str) else ours for theirs, ours in system.names(config).items()}
    wanted = {theirs: [own[name] for name in several] for theirs, several in named.items()}
    assert sum(map(len, wanted.values())) == len(own), f"no name for one of {sorted(own)}"
    tied = {"lm_head.weight", "head.weight"} - set(wanted) if "embedding.weight" in own else set()
    return wanted, {name: [own["embedding.weight"]] for name in tied if "head.weight" not in own}


def _first_fit(spec: Spec) -> tuple[str, dict[str, Any]]:
    """Return the first type that has a model, and its fields."""
    problems = []
    for model_type in MODEL_TYPES:
        try:
            return model_type, _config_of(spec, model_type, Path())
        except ArchlabError as error:
            problems.append(str(error))
    raise ArchlabError(f"transformers has no such model: {'; '.join(problems)}")


def _config_of(spec: Spec, model_type: str, folder: Path) -> dict[str, Any]:
    """Return the fields that describe a model, having seen that they describe no other."""
    system, plain = _system(model_type, str(folder)), spec.to_plain()
    try:
        config = system.FIELDS | system.config(plain)
        again = parse(system.plain(config), "backbone", "model").to_plain()
    except (ArchlabError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ArchlabError(f"the model is no {model_type}: {one_line(error)}") from error
    where = first_difference(_compared(again), _compared(plain))
    if where:
        raise ArchlabError(f"the model is no {model_type}: {where}")
    return config


def _compared(plain: Any) -> Any:
    """Return YAML data without what does not touch the function: how parameters begin, and how repeats are written."""
    if isinstance(plain, list):
        entries = [_compared(entry) for entry in plain]
        return [e for entry in entries for e in [_without(entry, "repeat")] * _repeats(entry)]
    return (
        {key: _compared(value) for key, value in plain.items() if key != "init"} if isinstance(plain, dict) else plain
    )


def _repeats(entry: Any) -> int:
    return entry.get("repeat", 1) if isinstance(entry, dict) else 1


def _without(entry: Any, key: str) -> Any:
    return {k: v for k, v in entry.items() if k != key} if isinstance(entry, dict) else entry


def _tensor_files(folder: Path) -> list[Path]:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        return [single]
    if not index.is_file():
        pickled = any(folder.glob("*.bin"))
        why = "; *.bin is pickled, which runs code: convert it to safetensors" if pickled else ""
        raise ArchlabError(f"{folder}: holds no model.safetensors{why}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchlabError(f"{index}: is no index of tensors: {one_line(error)}") from error
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ArchlabError(f"{index}: names {name!r}, which is no file beside it")
    return [folder / name for name in names]


def _read(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor by its name, one at a time, so that no second copy of the model is held."""
    for file in files:
        with _opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                if not name.endswith(_BUFFERS):
                    yield name, tensors.get_tensor(name)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ArchlabError(f"{file}: truncated, or not a safetensors file: {one_line(error)}") from error


def _dtype(files: list[Path]) -> torch.dtype:
    with _opened(files[0]) as tensors:
        found = (tensors.get_tensor(name).dtype for name in tensors.keys())  # noqa: SIM118
        return next((dtype for dtype in found if dtype.is_floating_point), torch.float32)


def _blank(spec: Spec, dtype: torch.dtype) -> nn.Module:
    """Return a model whose parameters are made in the dtype that they are to have."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return build(spec)
    finally:
        torch.set_default_dtype(before)
