"""A JSON Schema of search spaces, by which editors of YAML complete names and mark mistakes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from archlab.config.domains import Count
from archlab.config.json_schema import DRAFT, FORMAT, TEXT, TEXTS, Schema, experiment_schema, type_schema
from archlab.searching.domain_schema import CHOICES, HOLD, INTERVAL, PATTERN, TIE
from archlab.searching.ladder_schema import ladder_properties
from archlab.searching.planned import PLANNED
from archlab.searching.space import COSTS, KEYS, MEASURED, VALIDATION
from archlab.searching.study_config import PRUNERS, SAMPLERS, Seed

_DIRECTION: Schema = {"enum": ["minimize", "maximize"]}
_VALIDATION_METRIC: Schema = {"pattern": f"^{VALIDATION}"}
_PLACE: dict[str, Schema] = {
    "at": {**TEXT, "description": "The experiment to which the trial's choices are applied."},
    "device": {**TEXT, "description": "The device that is planned for: a shipped name, your own, or a file."},
    "devices": {**type_schema(Count), "description": "The number of devices."},
}


def space_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a search space, over every component that is registered."""
    experiment = experiment_schema()
    definitions = {**experiment.pop("$defs"), "experiment": {k: v for k, v in experiment.items() if k != "$schema"}}
    properties: dict[str, Any] = {
        "format": FORMAT,
        "base": {"anyOf": [TEXT, {"$ref": "#/$defs/experiment"}], "description": "The experiment to search around."},
        "description": TEXT,
        "plugins": {**TEXTS, "description": "Python files or modules that register components."},
        "override": {"type": "object", "description": "Values of the base by their paths."},
        "vary": {
            "type": "object",
            "description": "The domain of each path; auto is the one declared beside the component.",
            "minProperties": 1,
            "additionalProperties": {"anyOf": [{"const": "auto"}, CHOICES, INTERVAL, TIE, PATTERN]},
        },
        "hold": HOLD,
        "objectives": _objectives(),
        "constraints": {"type": "array", "items": _constraint()},
        "study": _study(),
        **ladder_properties(),
    }
    assert set(properties) == set(KEYS)
    return {
        "$schema": DRAFT,
        "title": "archlab search space",
        "type": "object",
        "properties": properties,
        "required": ["base"],
        "anyOf": [{"required": ["vary"]}, {"required": ["rungs"]}],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _objectives() -> Schema:
    return {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"anyOf": [{"enum": [*dict.fromkeys((*COSTS, *MEASURED, *PLANNED))]}, _VALIDATION_METRIC]},
        "additionalProperties": {"anyOf": [_DIRECTION, _planned()]},
    }


def _planned() -> Schema:
    return {"type": "object", "properties": {**_PLACE, "direction": _DIRECTION}, "additionalProperties": False}


def _constraint() -> Schema:
    at = {
        "type": "object",
        "properties": {**_PLACE, "require": _bound((*COSTS, *PLANNED))},
        "required": ["require"],
        "additionalProperties": False,
    }
    return {"anyOf": [_bound(COSTS), at]}


def _bound(metrics: Iterable[str]) -> Schema:
    return {"type": "string", "pattern": rf"^\s*({'|'.join(metrics)})\s*(<=|<|>=|>)"}


def _study() -> Schema:
    properties = {
        "sampler": _optuna_class(SAMPLERS),
        "pruner": _optuna_class(PRUNERS),
        "trials": {**type_schema(Count), "default": 20},
        "seed": {**type_schema(Seed), "default": 0},
        "storage": {
            "type": ["string", "null"],
            "description": "The URL of Optuna's storage, best without a password; a file by default.",
        },
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _optuna_class(names: Iterable[str]) -> Schema:
    known = [*names]
    options = {"type": "object", "properties": {"type": {"enum": known}}, "required": ["type"]}
    return {"anyOf": [{"enum": known}, options, *([{"type": "null"}] if "none" in known else [])]}
