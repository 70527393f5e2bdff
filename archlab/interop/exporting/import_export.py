"""An export of archlab's own, tuned by other tools, read back as a checkpoint.

What those tools save keeps config.json and the code, and leaves out config.yaml and tokens.json. So the config.json of
an export holds the experiment, its vocabulary, and the SHA-256 of its code; the code itself is never run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config.experiment import Experiment, read
from archlab.config.strict_json import read_object
from archlab.config.yaml_reader import parse_yaml
from archlab.errors import ArchlabError, ConfigError
from archlab.interop.exporting.tuned_tokens import read_tuned_tokens
from archlab.interop.hugging_face.pretrained import build_in_dtype
from archlab.interop.hugging_face.tensor_files import StoredTensor, common_dtype, iter_tensors, read_headers
from archlab.modeling.build import build_on_meta
from archlab.runtime.environment import versions
from archlab.storage import checkpoint
from archlab.storage.files import sha256_of
from archlab.storage.manifest import NAME, verify
from archlab.storage.targets import require_target
from archlab.storage.tensors import fit_tensors, named_tensors

MODEL_TYPE, FORMAT = "archlab", 1
EXPERIMENT, TOKENS, CODE = "archlab_experiment", "archlab_tokens", "archlab_code"
_PREFIX = "model."  # of the names that transformers saves


def is_own_export(directory: Path) -> bool:
    """Return whether a directory's config.json is that of an export of archlab's."""
    file = directory / "config.json"
    return file.is_file() and read_object(file).get("model_type") == MODEL_TYPE


def import_export(directory: Path, out: Path, *, force: bool = False) -> Path:
    """Write an export of archlab's own, tuned or not, as a published checkpoint to `out`; return `out`.

    Raises ArchlabError for other code than the export had, for weights that are missing, left over, of another shape or
    not finite, and for an `out` that is not empty.
    """
    file = directory / "config.json"
    config = _read_config(file)
    _require_own_code(directory, config)
    if (directory / NAME).is_file():
        verify(directory)
    experiment = _experiment(directory, config)
    tokens = read_tuned_tokens(directory, config.get(TOKENS), experiment.model.knobs.get("vocab_size"))
    check = require_target(out, "import", force=force, sources=[directory])
    model = _load(directory, experiment)
    provenance = {"imported_from": str(directory), "versions": versions()}
    checkpoint.save_model(out, model, experiment.resolved, provenance, tokens, kind="import", check=check)
    return out


def _read_config(file: Path) -> dict[str, Any]:
    config = read_object(file)
    if config.get("archlab_format") != FORMAT:
        raise ArchlabError(f"{file}: archlab_format {config.get('archlab_format')!r} is not {FORMAT}, which is read")
    for name, kind in ((EXPERIMENT, str), (CODE, dict), (TOKENS, dict | None)):
        if not isinstance(config.get(name), kind):
            raise ArchlabError(f"{file}: has no {name}, as exports of earlier versions; export the model again")
    if "quantization_config" in config:
        raise ArchlabError(f"{file}: the weights are quantized (quantization_config), which is not read")
    return config


def _require_own_code(directory: Path, config: dict[str, Any]) -> None:
    """Raise ArchlabError for code that the export did not have: its function of the weights is unknown."""
    code = config[CODE]
    for name, sha256 in code.items():
        if Path(name).name != name or not (directory / name).is_file():
            raise ArchlabError(f"{directory}: holds no {name}, the code of the export; copy it from there")
        if sha256_of(directory / name) != sha256:
            raise ArchlabError(f"{directory / name}: is other code than the export had, and so another model")
    auto_map = config.get("auto_map")
    for place in auto_map.values() if isinstance(auto_map, dict) else ():
        if f"{str(place).rpartition('--')[2].partition('.')[0]}.py" not in code:
            raise ArchlabError(f"{directory / 'config.json'}: auto_map names {place!r}, which the export did not have")


def _experiment(directory: Path, config: dict[str, Any]) -> Experiment:
    file = directory / "config.json"
    try:
        tree = parse_yaml(config[EXPERIMENT])
        if not isinstance(tree, dict):
            raise ConfigError("", "is not a mapping")
        experiment = read(tree, folder=directory, recorded=True).resolve()
    except ConfigError as error:
        raise ArchlabError(f"{file}: {EXPERIMENT}: {error.path}{': ' if error.path else ''}{error.problem}") from error
    vocab_size = experiment.model.knobs.get("vocab_size")
    if config.get("vocab_size") != vocab_size:
        raise ArchlabError(f"{file}: vocab_size {config.get('vocab_size')!r} is not that of the export, {vocab_size!r}")
    return experiment


def _load(directory: Path, experiment: Experiment) -> nn.Module:
    """Return the model with a directory's weights, in the dtype that holds them."""
    stored = read_headers(directory)
    own = named_tensors(build_on_meta(experiment.model))
    if not stored.keys() & own.keys():
        stored = {name.removeprefix(_PREFIX): tensor for name, tensor in stored.items()}
    fit = fit_tensors(own, {name: _on_meta(tensor) for name, tensor in stored.items()})
    if not fit.is_exact:
        raise ArchlabError(f"{directory}: the weights do not fit the model: {fit}")
    model = build_in_dtype(experiment.model, common_dtype(stored))
    tensors = named_tensors(model)
    for name, tensor in iter_tensors(read_headers(directory)):
        _copy(directory, name, tensor, tensors[name if name in tensors else name.removeprefix(_PREFIX)])
    return model


@torch.no_grad()
def _copy(directory: Path, name: str, tensor: Tensor, own: Tensor) -> None:
    if not tensor.isfinite().all():
        raise ArchlabError(f"{directory}: tensor {name!r} holds NaN or infinite values")
    own.copy_(tensor)


def _on_meta(tensor: StoredTensor) -> Tensor:
    return torch.empty(tensor.info.shape, dtype=tensor.info.dtype, device="meta")
