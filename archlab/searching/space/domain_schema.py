"""The JSON Schema of the domains and targets of a search space."""

from __future__ import annotations

from archlab.config.domains import Count
from archlab.config.json_schema import TEXT, Schema, type_schema
from archlab.searching.variants.hold import METRICS, TOLERANCE
from archlab.searching.variants.pattern import LETTER, MAX_PERIOD, OPERATORS

_NUMBER: Schema = {"type": "number"}
INTERVAL: Schema = {
    "type": "object",
    "properties": {
        "low": _NUMBER,
        "high": _NUMBER,
        "log": {"type": "boolean", "default": False, "description": "Spread the trials over magnitudes."},
        "step": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]},
        "divides": {**TEXT, "description": "The path of a whole number, of which only divisors are tried."},
    },
    "required": ["low", "high"],
    "additionalProperties": False,
}
CHOICES: Schema = {"type": "array", "minItems": 1, "uniqueItems": True}

TIE: Schema = {
    "type": "object",
    "properties": {"same_as": {**TEXT, "description": "The path of the knob whose value this one always has."}},
    "required": ["same_as"],
    "additionalProperties": False,
}
_COUNTS: Schema = {
    "type": "object",
    "propertyNames": {"pattern": LETTER},
    "additionalProperties": {"type": "integer", "minimum": 0, "maximum": MAX_PERIOD},
}
_LAYER: Schema = {"type": "object", "not": {"required": ["repeat"]}}
PATTERN: Schema = {
    "type": "object",
    "properties": {
        "pattern": {
            "type": "object",
            "properties": {
                "of": {
                    "type": "object",
                    "description": "Knobs of the layer of each letter, over the base's first layer.",
                    "propertyNames": {"pattern": LETTER},
                    "minProperties": 2,
                    "additionalProperties": _LAYER,
                },
                "layer": {**_LAYER, "description": "Knobs of the layers of all letters."},
                "period": {"type": "integer", "minimum": 1, "maximum": MAX_PERIOD},
                "at_least": _COUNTS,
                "at_most": _COUNTS,
                "operator": {
                    "anyOf": [{"enum": [*OPERATORS]}, {**CHOICES, "items": {"enum": [*OPERATORS]}}],
                    "default": OPERATORS[0],
                    "description": "stack repeats the period, stretch each letter; a list compares both.",
                },
                "depth": {**type_schema(Count), "description": "Number of layers, a multiple of the period."},
                "repeats": {**type_schema(Count), "default": 1},
            },
            "required": ["of", "period"],
            "not": {"required": ["depth", "repeats"]},
            "additionalProperties": False,
        }
    },
    "required": ["pattern"],
    "additionalProperties": False,
}
_POSITIVE: Schema = {"type": "number", "exclusiveMinimum": 0}
HOLD: Schema = {
    "type": "object",
    "description": "The cost that every trial has, and the path of the whole number that is solved for.",
    "properties": {
        **dict.fromkeys(METRICS, _POSITIVE),
        "by": TEXT,
        "tolerance": {**_POSITIVE, "maximum": 1, "default": TOLERANCE},
        **dict.fromkeys(("low", "high", "multiple_of"), type_schema(Count)),
    },
    "oneOf": [{"required": [metric]} for metric in METRICS],
    "required": ["by"],
    "additionalProperties": False,
}
