"""Limits of a study: how long it may run, and whose weights it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from archlab.config.domains import Count, Range
from archlab.config.schema import coerce, reject_unknown
from archlab.errors import ConfigError

BUDGETS = ("hours", "tokens", "flops")
_Amount = Annotated[float, Range(low=0, above=True, high=1e30)]


def parse_budget(data: Any, path: str) -> dict[str, float]:
    """Read `study.budget`: hours of all workers together, tokens or FLOPs of training; {} is no limit."""
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise ConfigError(path, f"{data!r} is not a mapping such as {{hours: 8}}")
    reject_unknown(data, BUDGETS, path)
    return {unit: coerce(amount, _Amount, f"{path}.{unit}") for unit, amount in data.items()}


def parse_time_limit(data: Any, path: str) -> float | None:
    """Read `study.time_limit`, the seconds after which a trial is ended as failed; None is no limit."""
    limit: float | None = coerce(data, _Amount | None, path)
    return limit


def parse_keep(data: Any, path: str) -> int:
    """Read `study.keep`, the number of best trials whose weights stay; 1 by default."""
    if data is None:
        return 1
    if not isinstance(data, Mapping) or "best" not in data:
        raise ConfigError(path, f"{data!r} is not a mapping such as {{best: 5}}")
    reject_unknown(data, ("best",), path)
    kept: int = coerce(data["best"], Count, f"{path}.best")
    return kept
