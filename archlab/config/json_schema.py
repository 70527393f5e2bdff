"""A JSON Schema of experiments, by which editors of YAML complete names and mark mistakes."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from archlab.config.domains import Range
from archlab.config.experiment import KINDS
from archlab.config.parallel import parallel_knobs
from archlab.config.registry import Component, Slot, components, kinds
from archlab.config.renames import current
from archlab.config.schema import REQUIRED, Knob, settings_of
from archlab.config.spec import REPEAT
from archlab.config.train_config import train_knobs

Schema: TypeAlias = dict[str, Any]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
FORMAT: Schema = {
    "type": "integer",
    "minimum": 1,
    "maximum": current().format,
    "description": "The format of the file.",
}
_INTERPOLATION: Schema = {"type": "string", "pattern": r"\$\{"}  # "${train.context}" may stand for any value
_SCALARS: Mapping[Any, Schema] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    str: TEXT,
    type(None): {"type": "null"},
}


def experiment_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of an experiment, over every component that is registered."""
    properties = {
        "format": FORMAT,
        "base": {**TEXT, "description": "The experiment that this one extends: a shipped name, or a file."},
        "plugins": {**TEXTS, "description": "Python files or modules that register components."},
        "override": {"type": ["object", "null"], "description": "Values of the base by their paths."},
        "name": TEXT,
        "description": {"type": ["string", "null"]},
        **{section: {"$ref": f"#/$defs/{kind}"} for section, kind in KINDS.items()},
        "train": mapping_of(train_knobs().values()),
        "parallel": {
            **mapping_of(parallel_knobs().values()),
            "type": ["object", "null"],
            "description": "Devices along each axis; their product is the number of devices.",
        },
    }
    return {
        "$schema": DRAFT,
        "title": "archlab experiment",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "anyOf": [{"required": ["base"]}, {"required": list(KINDS)}],
        "$defs": component_definitions(),
    }


def component_definitions() -> dict[str, Schema]:
    """Return a definition of each kind and each component, `kind` and `kind.name`."""
    found = {kind: components(kind) for kind in kinds()}
    definitions = {kind: _kind(kind, members) for kind, members in found.items()}
    for members in found.values():
        definitions.update({f"{member.kind}.{member.name}": _component(member) for member in members})
    return definitions


def _kind(kind: str, members: Sequence[Component]) -> Schema:
    """Allow a name, or a mapping; one without a type extends the base's component, whichever that is."""
    names = [member.name for member in members]
    conditions = [
        {"if": _has_type({"const": name}), "then": {"$ref": f"#/$defs/{kind}.{name}"}, "else": True} for name in names
    ]
    known = sorted({"type", REPEAT.name, *(knob for member in members for knob in member.knobs)})
    return {
        "if": TEXT,
        "then": {"anyOf": [{"enum": names}, _INTERPOLATION]},
        "else": {
            "type": "object",
            "properties": {"type": {"anyOf": [{"enum": names}, _INTERPOLATION]}},
            "propertyNames": {"enum": known},
            "allOf": conditions,
        },
    }


def _has_type(value: Schema) -> Schema:
    return {"required": ["type"], "properties": {"type": value}}


def _component(component: Component) -> Schema:
    meanings = component.meanings
    properties = {name: _knob(knob, meanings.get(name, "")) for name, knob in component.knobs.items()}
    repeat = {REPEAT.name: type_schema(REPEAT.type)}  # of an entry of a list
    return {
        "type": "object",
        "description": component.summary,
        "properties": {"type": {"const": component.name}, **repeat, **properties},
        "additionalProperties": False,
    }


def mapping_of(knobs: Iterable[Knob]) -> Schema:
    """Return the schema of a mapping of these settings."""
    known = list(knobs)
    required = [knob.name for knob in known if knob.default is REQUIRED]
    return {
        "type": "object",
        "properties": {knob.name: _knob(knob, "") for knob in known},
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _knob(knob: Knob, meaning: str) -> Schema:
    described = {"description": meaning} if meaning else {}
    if isinstance(knob.default, Slot):
        return {**described, **_slot(knob.default)}
    default = {} if knob.default is REQUIRED else {"default": knob.default}
    return {**described, "anyOf": [type_schema(knob.type), _INTERPOLATION], **default}


def _slot(slot: Slot) -> Schema:
    reference: Schema = {"$ref": f"#/$defs/{slot.kind}"}
    if not slot.many:
        return {**reference, **({"default": slot.default} if slot.default else {})}
    if slot.default is not None:  # entries of lists are never merged, so one without a type is of the default's
        untyped = {"type": "object", "not": {"required": ["type"]}}
        reference = {"if": untyped, "then": {"$ref": f"#/$defs/{slot.kind}.{slot.default}"}, "else": reference}
    return {"anyOf": [{"type": "array", "items": reference, "minItems": 1}, _INTERPOLATION]}


def type_schema(expected: Any) -> Schema:
    """Return the schema of a knob's type."""
    origin, args = get_origin(expected), get_args(expected)
    if origin is Annotated:
        limits = [_limits(limit) for limit in args[1:] if isinstance(limit, Range)]
        return {key: value for part in (type_schema(args[0]), *limits) for key, value in part.items()}
    if origin in (Union, types.UnionType):
        return {"anyOf": [type_schema(option) for option in args]}
    if origin is Literal:
        # YAML 1.1 reads the words on and off as booleans.
        switches = [value for value, word in ((True, "on"), (False, "off")) if word in args]
        return {"enum": [*args, *(value for value in switches if value not in args)]}
    return _container_schema(expected, origin, args) or _SCALARS.get(expected, {})


def _container_schema(expected: Any, origin: Any, args: tuple[Any, ...]) -> Schema | None:
    if origin in (list, Sequence):
        return {"type": "array", "items": type_schema(args[0])}
    if isinstance(expected, type) and is_dataclass(expected):
        return mapping_of(settings_of(expected).values())
    if origin is dict:
        return {"type": "object", "additionalProperties": {"anyOf": [type_schema(args[1]), _INTERPOLATION]}}
    return None


def _limits(limit: Range) -> Schema:
    bounds = {"exclusiveMinimum" if limit.above else "minimum": limit.low, "maximum": limit.high}
    return {key: value for key, value in bounds.items() if abs(value) != float("inf")}
