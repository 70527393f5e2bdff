"""A JSON Schema of search spaces, by which editors of YAML complete names and mark mistakes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from archlab.config.domains import Count
from archlab.config.json_schema import DRAFT, FORMAT, TEXT, TEXTS, Schema, experiment_schema, type_schema
from archlab.searching.space.domain_schema import CHOICES, HOLD, INTERVAL, PATTERN, TIE
from archlab.searching.space.dominance import DominanceConfig
from archlab.searching.space.ladder_schema import ladder_properties
from archlab.searching.space.load_space import KEYS
from archlab.searching.space.objectives import COSTS, MEASURED, VALIDATION
from archlab.searching.space.promotion import PromotionConfig
from archlab.searching.space.study_config import DOMINATED, PROMOTION, PRUNERS, SAMPLERS, STUDY_KEYS, Seed
from archlab.searching.space.study_limits import BUDGETS
from archlab.searching.variants.planned import PLANNED

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
        "inner": _inner(),
        "compare": {
            "anyOf": [TEXT, TEXTS],
            "description": "A varied path, or several, whose choices each get the same number of trials.",
        },
        "seeds": {**TEXTS, "description": "Experiments that are tried first."},
        "tasks": {
            "type": "object",
            "minProperties": 1,
            "description": "Tasks that every candidate is trained on, each by its values by path; metrics are means.",
            "additionalProperties": {"type": "object"},
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


def _inner() -> Schema:
    return {
        "type": "object",
        "properties": {"trials": {**type_schema(Count), "description": "The runs of each candidate."}},
        "required": ["trials"],
        "minProperties": 2,
        "description": "Knobs tuned for each candidate by itself: the domain of each path.",
        "additionalProperties": {"anyOf": [{"const": "auto"}, CHOICES, INTERVAL]},
    }


def _objectives() -> Schema:
    return {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"anyOf": [{"enum": [*dict.fromkeys((*COSTS, *MEASURED, *PLANNED))]}, _VALIDATION_METRIC]},
        "additionalProperties": {"anyOf": [_DIRECTION, _planned_schema()]},
    }


def _planned_schema() -> Schema:
    return {"type": "object", "properties": {**_PLACE, "direction": _DIRECTION}, "additionalProperties": False}


def _constraint() -> Schema:
    at = {
        "type": "object",
        "properties": {**_PLACE, "require": _bound_schema((*COSTS, *PLANNED))},
        "required": ["require"],
        "additionalProperties": False,
    }
    return {"anyOf": [_bound_schema(COSTS), at]}


def _bound_schema(metrics: Iterable[str]) -> Schema:
    return {"type": "string", "pattern": rf"^\s*({'|'.join(metrics)})\s*(<=|<|>=|>)"}


def _study() -> Schema:
    properties = {
        "sampler": _optuna_class(SAMPLERS),
        "pruner": {"anyOf": [_optuna_class(PRUNERS), _dominated_schema(), _promotion()]},
        "trials": {**type_schema(Count), "default": 20},
        "seed": {**type_schema(Seed), "default": 0},
        "storage": {
            "type": ["string", "null"],
            "description": "The URL of Optuna's storage without its password, or `journal`; an SQLite file by default.",
        },
        "runs_per_trial": {**type_schema(Count), "default": 1, "description": "Random seeds of each candidate."},
        "keep": _object({"best": {**type_schema(Count), "description": "Trials whose weights stay."}}, ["best"]),
        "time_limit": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "description": "The seconds after which a trial is ended, and has failed.",
        },
        "launcher": {
            "anyOf": [{"type": ["string", "null"]}, {"type": "object", "properties": {"type": {"type": "string"}}}],
            "description": "The launcher of workers: local, slurm, ray, or another package's, with its options.",
        },
        "resources": {
            **_object(
                {
                    "cpus": {**type_schema(Count), "default": 1},
                    "gpus": {"type": "integer", "minimum": 0, "default": 0},
                    "time_limit": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds."},
                },
                [],
            ),
            "description": "Resources of each worker that a launcher places.",
        },
        "budget": _object({unit: {"type": "number", "exclusiveMinimum": 0} for unit in BUDGETS}, []),
    }
    assert set(properties) == set(STUDY_KEYS)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _object(properties: Schema, required: list[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _dominated_schema() -> Schema:
    options = {each.name: {"type": "integer", "default": each.default} for each in fields(DominanceConfig)}
    mapping = _object({"type": {"const": DOMINATED}, **options}, ["type"])
    return {"anyOf": [{"const": DOMINATED}, mapping], "description": "For several objectives."}


def _promotion() -> Schema:
    first = {"type": ["integer", "null"], "minimum": 1, "description": "The first pause; that of the first evaluation."}
    factor = {"type": "integer", "minimum": 2, "default": PromotionConfig.reduction_factor}
    options = {"type": {"const": PROMOTION}, "first_step": first, "reduction_factor": factor}
    text = "Successive halving whose trials pause, and continue from their checkpoints."
    return {"anyOf": [{"const": PROMOTION}, _object(options, ["type"])], "description": text}


def _optuna_class(names: Iterable[str]) -> Schema:
    known = [*names]
    options = {"type": "object", "properties": {"type": {"enum": known}}, "required": ["type"]}
    return {"anyOf": [{"enum": known}, options, *([{"type": "null"}] if "none" in known else [])]}
