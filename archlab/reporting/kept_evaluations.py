"""The evaluations that a run's directory keeps, read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError, one_line
from archlab.inference.suite import Curve, Estimate, SuiteResult
from archlab.storage.json_values import require_fields

RESULT = "result.json"
_WHAT = "the result of a suite"


def read_evaluations(run: Path) -> dict[str, SuiteResult]:
    """Return the results of suites on a run's trained model, by suite; raise ArchlabError naming a damaged file."""
    files = sorted(run.glob(f"evaluations/*/{RESULT}"))
    return {file.parent.name: _read(file) for file in files}


def _read(file: Path) -> SuiteResult:
    data = read_object(file, _WHAT)
    for unused in ("model", "records"):  # records are each item's answer
        data.pop(unused, None)
    try:
        curves = tuple(_curve(each, file) for each in data.pop("curves"))
        figures = {name: _estimate(each, file) for name, each in data.pop("figures").items()}
        return SuiteResult(curves=curves, figures=figures, notes=tuple(data.pop("notes")), **data)
    except KeyError as error:
        raise ArchlabError(f"{file}: is not {_WHAT}: it has no {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ArchlabError(f"{file}: is not {_WHAT}: {one_line(error)}") from error


def _curve(data: Mapping[str, Any], file: Path) -> Curve:
    points = [(float(x), _estimate(each, file)) for x, each in data["points"]]
    return Curve(**{**data, "points": points})


def _estimate(data: Mapping[str, Any], file: Path) -> Estimate:
    estimate = Estimate(**data)
    require_fields(estimate, file)
    return estimate
