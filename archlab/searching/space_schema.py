"""A JSON Schema of search spaces, by which editors of YAML complete names and mark mistakes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from archlab.config.domains import Count
from archlab.config.json_schema import DRAFT, FORMAT, TEXT, TEXTS, Schema, experiment_schema, type_schema
from archlab.searching.domain_schema import CHOICES, HOLD, INTERVAL, PATTERN, TIE
from archlab.searching.space import COSTS, KEYS, MEASURED, VALIDATION
from archlab.searching.study_config import PRUNERS, SAMPLERS, Seed


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
    }
    assert set(properties) == set(KEYS)
    return {
        "$schema": DRAFT,
        "title": "archlab search space",
        "type": "object",
        "properties": properties,
        "required": ["base", "vary"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _objectives() -> Schema:
    return {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"anyOf": [{"enum": [*COSTS, *MEASURED]}, {"pattern": f"^{VALIDATION}"}]},
        "additionalProperties": {"enum": ["minimize", "maximize"]},
    }


def _constraint() -> Schema:
    bound = {"type": "string", "pattern": rf"^\s*({'|'.join(COSTS)})\s*(<=|<|>=|>)"}
    at = {
        "type": "object",
        "properties": {"at": {**TEXT, "description": "The experiment whose cost is bounded."}, "require": bound},
        "required": ["at", "require"],
        "additionalProperties": False,
    }
    return {"anyOf": [bound, at]}


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
