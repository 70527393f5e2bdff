"""The config.json of a transformers checkpoint: read, checked field by field, and turned into a spec."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.config.spec import Spec, parse
from archlab.errors import ArchlabError, ConfigError, did_you_mean, one_line
from archlab.interop._formats import CheckpointFormat, Fields, find_format, format_names

_FORMATS = f"{__package__}.formats"
# Fields of every configuration that say how a library uses a model, not what the model computes.
# fmt: off
_IGNORED = {
    "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label",
    "initializer_range", "is_encoder_decoder", "label2id", "model_type", "_name_or_path", "output_attentions",
    "output_hidden_states", "pad_token_id", "problem_type", "return_dict", "torch_dtype", "transformers_version",
    "use_cache",
}
# fmt: on


@dataclass(frozen=True)
class HFConfig:
    """A checked config.json: its file, its format, and the format's fields with defaults filled in."""

    file: Path
    format: CheckpointFormat
    fields: Fields

    def to_spec(self) -> Spec:
        """Return the spec of the model; raise ArchlabError naming the file for values that give no model."""
        try:
            return parse(self.format.to_archlab_config(self.fields), "backbone", "model")
        except ConfigError as error:
            raise ArchlabError(f"{self.file}: gives no model: {error}") from error
        except ArchlabError as error:
            raise ArchlabError(f"{self.file}: {error}") from error
        except (TypeError, ValueError, KeyError, AttributeError) as error:  # a field of another type, such as "many"
            raise ArchlabError(f"{self.file}: a field has an invalid value: {one_line(error)}") from error


def model_types() -> list[str]:
    """Return every supported `model_type` of transformers."""
    return format_names(_FORMATS)


def find_model_type(model_type: object, source: str) -> CheckpointFormat:
    """Return the format of a `model_type`; raise ArchlabError, beginning with the source, if it is not supported."""
    return find_format(_FORMATS, model_type, CheckpointFormat, noun="model_type", source=source)


def read_config(folder: Path) -> HFConfig:
    """Read a directory's config.json; raise ArchlabError naming the file or field that cannot be represented."""
    file = folder / "config.json"
    if not file.is_file():
        problem = "holds no config.json" if folder.is_dir() else "is no directory"
        raise ArchlabError(f"{folder}: {problem}: give the directory of a transformers checkpoint")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArchlabError(f"{file}: cannot be read: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise ArchlabError(f"{file}: is no JSON object")
    found = find_model_type(data.get("model_type"), str(file))
    _check_fields(data, found, file)
    return HFConfig(file, found, {field: data.get(field, default) for field, default in found.fields.items()})


def _check_fields(data: Mapping[str, Any], expected: CheckpointFormat, file: Path) -> None:
    known = {*expected.fields, *expected.fixed}
    ignored = _IGNORED | set(expected.ignored)
    for field, value in data.items():
        if field in expected.fixed and value not in expected.fixed[field]:
            supported = " or ".join(map(repr, expected.fixed[field]))
            raise ArchlabError(f"{file}: {field} {value!r}: not represented, only {supported} is")
        # A null is transformers' way to leave a field out, also one that another version knows.
        if field not in known | ignored and value is not None:
            raise ArchlabError(f"{file}: unknown field {field!r}, here {value!r}{did_you_mean(field, known)}")
