"""Whether a run's data are those that it began with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from archlab.data.task import Task
from archlab.errors import ArchlabError

# Paths and readers of data: checksums decide whether the data are the same.
WHEREABOUTS = ("source", "tokenizer", "python")
# And values that follow from the experiment and the others.
_ELSEWHERE = (*WHEREABOUTS, "bytes")
_MAX_NAMED = 3


def data_identity(task: Task) -> dict[str, Any]:
    """Return the identity of a task's data, wherever they are: sizes and checksums, by dotted names."""
    facts = json.loads(json.dumps(task.describe()))  # as a checkpoint reads it back: lists for tuples, text for keys
    return {key: value for key, value in _flatten(facts).items() if key.split(".")[0] not in _ELSEWHERE}


def _flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def require_same_data(earlier: Mapping[str, Any], now: Mapping[str, Any], location: object) -> None:
    """Raise ArchlabError naming what has changed in the data since a checkpoint was written."""
    # A fact that only one of them has is of another version of archlab.
    if not isinstance(earlier, Mapping):
        raise ArchlabError(f"{location}: not the data of a checkpoint: {_brief(earlier)}")
    keys = [key for key in earlier if key in now and now[key] != earlier[key]]
    if keys:
        changed = [f"{key} {_brief(earlier[key])} -> {_brief(now[key])}" for key in keys]
        named = ", ".join(changed[:_MAX_NAMED])
        raise ArchlabError(
            f"{location}: the data have changed since: {named}; restore them, or start a new run in another directory"
        )


def _brief(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
