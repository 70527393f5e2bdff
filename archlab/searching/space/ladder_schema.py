"""The part of the JSON Schema of search spaces that describes ladders."""

from __future__ import annotations

from archlab.config.domains import Count, Index, Positive
from archlab.config.json_schema import TEXT, Schema, type_schema
from archlab.searching.space.ladder_keys import EXPERIMENT

_SEEDS: Schema = {"type": "integer", "minimum": 1, "maximum": 100, "default": 1}
_PART: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}


def ladder_properties() -> dict[str, Schema]:
    """Return the schema of each key that makes a ladder of a space."""
    return {
        "candidates": _candidates(),
        "rungs": {"type": "array", "minItems": 1, "items": _rung(), "description": "Sizes, the smallest first."},
        "rules": {"anyOf": [{"const": "none"}, _rules()]},
        "branches": {"type": "array", "items": _PART, "description": "Parts of a run at which a decay branches off."},
        "to": _closed_object({EXPERIMENT: TEXT, "tokens": type_schema(Positive)}, required=[EXPERIMENT, "tokens"]),
        "rehearsal": {"type": "boolean", "default": False},
    }


def _candidates() -> Schema:
    choices: Schema = {"type": "object", "properties": {EXPERIMENT: TEXT, "to": TEXT}}
    entry = {"anyOf": [TEXT, choices, {"type": "null"}]}
    name = {"pattern": "^[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}$"}
    return {"type": "object", "minProperties": 1, "propertyNames": name, "additionalProperties": entry}


def _rung() -> Schema:
    number = type_schema(Positive)
    return _closed_object(
        {
            "params": {**number, "description": "Parameters without embeddings and head."},
            "by": {**TEXT, "default": "model.dim", "description": "The width by which they are reached."},
            "set": {"type": "object", "description": "Values by path, of every candidate."},
            "layers": {**type_schema(Count), "description": "Layers, repeats counted."},
            "tokens": number,
            "tokens_per_param": number,
            "seeds": _SEEDS,
            "keep": {**type_schema(Count), "description": "Candidates that continue; by default all."},
            "room": {**type_schema(Index), "default": 0, "description": "More of them, if within noise of the last."},
            "elsewhere": {"type": "boolean", "default": False},
        }
    )


def _rules() -> Schema:
    number = {"anyOf": [type_schema(Positive), {"type": "null"}]}
    power = {"anyOf": [_closed_object({"value": number, "at": number, "power": {"type": "number"}}), {"type": "null"}]}
    warmup: Schema = {"type": ["number", "null"], "minimum": 0}
    return _closed_object({"batch": power, "lr": power, "warmup": warmup, "beta2": {"enum": ["olmo", None]}})


def _closed_object(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required} if required else {})
