"""The config.json that describes a model of archlab, verified by converting it back."""

from __future__ import annotations

from typing import Any

from archlab.config.diff import first_difference
from archlab.config.spec import Spec, parse
from archlab.errors import ArchlabError, one_line
from archlab.interop._formats import Fields
from archlab.interop.hugging_face.config_json import find_model_type, model_types


def match_model_type(spec: Spec) -> tuple[str, Fields]:
    """Return the first `model_type` that represents a model, and its fields; raise ArchlabError with every reason."""
    problems = []
    for model_type in model_types():
        try:
            return model_type, to_hf_fields(spec, model_type, "")
        except ArchlabError as error:
            problems.append(str(error))
    raise ArchlabError(f"transformers has no such model: {'; '.join(problems)}")


def to_hf_fields(spec: Spec, model_type: str, source: str) -> Fields:
    """Return the fields of config.json that describe a model; raise ArchlabError naming the first difference."""
    found, plain = find_model_type(model_type, source), spec.to_plain()
    # A format picks the closest fields without checking whether they can express the model: the round trip does.
    try:
        fields = {**found.fields, **found.to_hf_config(plain)}
        converted_back = parse(found.to_archlab_config(fields), "backbone", "model").to_plain()
    except (ArchlabError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ArchlabError(f"the model is no {model_type}: {one_line(error)}") from error
    difference = first_difference(_normalize(converted_back), _normalize(plain))
    if difference:
        raise ArchlabError(f"the model is no {model_type}: {difference}")
    return fields


def _normalize(plain: Any) -> Any:
    """Return YAML data without what does not affect the function: initializations, and how repeats are written."""
    if isinstance(plain, list):
        entries = [_normalize(entry) for entry in plain]
        return [copy for entry in entries for copy in [_without_repeat(entry)] * _repeats(entry)]
    if isinstance(plain, dict):
        return {key: _normalize(value) for key, value in plain.items() if key != "init"}
    return plain


def _repeats(entry: Any) -> int:
    return entry.get("repeat", 1) if isinstance(entry, dict) else 1


def _without_repeat(entry: Any) -> Any:
    return {key: value for key, value in entry.items() if key != "repeat"} if isinstance(entry, dict) else entry
