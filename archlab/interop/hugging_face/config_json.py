"""The config.json of a transformers checkpoint: read, checked field by field, and turned into a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.config.spec import Spec, parse
from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError, ConfigError, one_line
from archlab.interop._formats import CheckpointFormat, Fields, find_format, format_names
from archlab.interop.hugging_face.unknown_fields import problem_of

_FORMATS = f"{__package__}.formats"

# Formats list every layer, before it is known whether there are weights for all of them.
_LAYERS, _MOST_LAYERS = "num_hidden_layers", 100_000


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
        # A field of another type, such as "many", or a zero that divides.
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
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
        problem = "holds no config.json" if folder.is_dir() else "is not a directory"
        raise ArchlabError(f"{folder}: {problem}: give the directory of a transformers checkpoint")
    data = read_object(file)
    found = find_model_type(data.get("model_type"), str(file))
    data = _without_aliases(data, found, file)
    for field, value in data.items():
        if problem := _problem(field, value, found):
            raise ArchlabError(f"{file}: {problem}")
    return HFConfig(file, found, {field: _value(data, field, default) for field, default in found.fields.items()})


def _value(data: Mapping[str, Any], field: str, default: Any) -> Any:
    value = data.get(field, default)
    return False if value is None and isinstance(default, bool) else value  # as transformers reads a null flag


def _without_aliases(data: Mapping[str, Any], expected: CheckpointFormat, file: Path) -> dict[str, Any]:
    """Return the fields by the names that the format reads; raise ArchlabError for two values of one."""
    fields = dict(data)
    for alias, field in expected.aliases.items():
        value = fields.pop(alias, None)
        if value is not None and fields.setdefault(field, value) != value:
            raise ArchlabError(f"{file}: {field} {fields[field]!r} and {alias} {value!r} are one value; leave one out")
    return fields


def _problem(field: str, value: Any, expected: CheckpointFormat) -> str:
    """Return why a field cannot be represented, or ""."""
    if field in expected.fixed and value not in expected.fixed[field]:
        supported = " or ".join(map(repr, expected.fixed[field]))
        return f"{field} {value!r}: not represented, only {supported} is"
    if field in expected.fields:
        return _type_problem(field, value, expected.fields[field])
    if field in expected.fixed or field in expected.ignored:
        return ""
    return problem_of(field, value, {*expected.fields, *expected.fixed})


def _type_problem(field: str, value: Any, default: Any) -> str:
    """Return a problem where a number or a flag has another type; Python would compute with 1.5 layers, or with true.

    Null, lists and texts are left to the format: each is right for some field.
    """
    if isinstance(default, bool):
        return "" if isinstance(value, bool | None) else f"{field} {value!r} is not true or false"
    is_number = isinstance(default, int | float)
    if is_number and (isinstance(value, bool) or (isinstance(default, int) and isinstance(value, float))):
        return f"{field} {value!r} is not a {'whole ' if isinstance(default, int) else ''}number"
    if field == _LAYERS and isinstance(value, int) and value > _MOST_LAYERS:
        return f"{field} {value:,} is above {_MOST_LAYERS:,}"
    return ""
