"""The config.json that describes a model of archlab, verified by converting it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from archlab.config.diff import first_difference
from archlab.config.spec import Spec, parse
from archlab.errors import ArchlabError, one_line
from archlab.interop._formats import Fields
from archlab.interop.hugging_face.config_json import find_model_type, model_types
from archlab.modeling.build import build_on_meta

_NO_FUNCTION = ("init", "dropout", "balance_loss")  # knobs of training alone
_MAX_NAMED = 3  # types that come nearest to a model that has none
_CENTERED, _SCALE = "zero_centered", "weight"  # of a norm


@dataclass(frozen=True)
class Match:
    """A `model_type` that represents a model, its fields of config.json, and what to add to the scales of norms."""

    model_type: str
    fields: Fields
    shifts: Mapping[str, float]


class NoMatch(ArchlabError):
    """A model that a type of transformers cannot represent, and how many values of its YAML data it has nonetheless."""

    def __init__(self, problem: str, shared: int = 0) -> None:
        super().__init__(problem)
        self.shared = shared


def match_model_type(spec: Spec) -> Match:
    """Return the first `model_type` that represents a model; raise ArchlabError naming the nearest if none does."""
    problems, known = list[NoMatch](), model_types()
    for model_type in known:
        try:
            return match(spec, model_type, "")
        except NoMatch as error:
            problems.append(error)
    nearest = sorted(problems, key=lambda problem: -problem.shared)[:_MAX_NAMED]
    reasons = "; ".join(map(str, nearest))
    raise ArchlabError(f"transformers has no such model among its {len(known)} types that are known: {reasons}")


def match(spec: Spec, model_type: str, source: str) -> Match:
    """Return how a `model_type` describes a model; raise NoMatch naming the first difference if it cannot."""
    found, plain = find_model_type(model_type, source), spec.to_plain()
    # A format picks the closest fields without checking whether they can express the model: the round trip does.
    try:
        fields = {**found.fields, **found.to_hf_config(plain)}
        theirs = parse(found.to_archlab_config(fields), "backbone", "model")
    except (ArchlabError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise NoMatch(f"the model is no {model_type}: {_reason(error)}") from error
    there, here = _normalize(theirs.to_plain()), _normalize(plain)
    difference = first_difference(there, here, _is_same)
    try:
        shifts = {} if difference else _shifts(build_on_meta(theirs), build_on_meta(spec))
    except ArchlabError as error:
        difference = str(error)
    if difference:
        raise NoMatch(f"the model is no {model_type}: {difference}", _num_shared(there, here))
    return Match(model_type, fields, shifts)


def _reason(error: Exception) -> str:
    """Say why a format could not even read the YAML data of a model, which may have any parts."""
    if isinstance(error, ArchlabError):
        return one_line(error)
    return f"it has no {error}" if isinstance(error, KeyError) else "its parts are of other kinds"


def _num_shared(there: Any, here: Any) -> int:
    """Return the number of values that two trees have in common."""
    if isinstance(there, dict) and isinstance(here, dict):
        return sum(_num_shared(there[key], here[key]) for key in there if key in here)
    if isinstance(there, list) and isinstance(here, list):
        return sum(map(_num_shared, there, here))
    return int(there == here)


def _is_same(path: str, there: Any, here: Any) -> bool:
    """Return whether two values may give one function: `_shifts` compares the shapes that an unset number gives."""
    if path.endswith(".zero_centered"):
        return isinstance(there, bool) and isinstance(here, bool)
    if path.endswith(".bias_rate"):  # of any rate a router has a bias, which training alone changes
        return (there is None) == (here is None)
    if path.endswith(".out_bias") and None in (there, here):  # `_shifts` compares whether there is one
        return True
    is_unset = None in (there, here) and all(value is None or type(value) is int for value in (there, here))
    return there == here or is_unset


def _shifts(theirs: nn.Module, ours: nn.Module) -> dict[str, float]:
    """Return the offset of archlab's scales where one is 1 + weight; raise ArchlabError for parameters that differ."""
    there, here = ({name: tuple(p.shape) for name, p in model.named_parameters()} for model in (theirs, ours))
    if difference := first_difference(there, here):
        raise ArchlabError(f"the shape of {difference}")
    modules = dict(theirs.named_modules())
    centered = {name: getattr(module, _CENTERED, None) for name, module in ours.named_modules()}
    others = {name: getattr(modules.get(name), _CENTERED, None) for name in centered}
    return {
        f"{name}.{_SCALE}": 1.0 if centered[name] else -1.0
        for name in centered
        if centered[name] != others[name] and f"{name}.{_SCALE}" in here
    }


def _normalize(plain: Any) -> Any:
    """Return YAML data without knobs that do not affect the function, and with repeats expanded."""
    if isinstance(plain, list):
        entries = [_normalize(entry) for entry in plain]
        return [copy for entry in entries for copy in [_without_repeat(entry)] * _repeats(entry)]
    if isinstance(plain, dict):
        return {key: _normalize(value) for key, value in plain.items() if key not in _NO_FUNCTION}
    return plain


def _repeats(entry: Any) -> int:
    return entry.get("repeat", 1) if isinstance(entry, dict) else 1


def _without_repeat(entry: Any) -> Any:
    return {key: value for key, value in entry.items() if key != "repeat"} if isinstance(entry, dict) else entry
