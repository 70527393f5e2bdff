"""The provenance of a trained model: provenance.json, the data, versions and run that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError
from archlab.storage.identity import identity_in
from archlab.storage.json_values import has_type

PROVENANCE = "provenance.json"
_FIELDS: Mapping[str, Any] = {
    "data": dict[str, Any],
    "versions": dict[str, str],
    "step": int,
    "metrics_log": dict[str, Any],
    "start_from": dict[str, Any],
}


def read_provenance(file: Path) -> dict[str, Any]:
    """Return a model's provenance; raise ArchlabError naming the file and field that is damaged."""
    data = read_object(file, "the provenance of a model")
    identity_in(data, file)
    for name, expected in _FIELDS.items():
        if name in data and not has_type(data[name], expected):
            raise ArchlabError(f"{file}: {name} is not of its type, but {data[name]!r:.40}")
    require_corpus(data.get("data", {}), file)
    return data


def provenance_of(model: Path) -> dict[str, Any]:
    """Return the provenance in a trained model's directory, empty if there is none."""
    file = model / PROVENANCE
    return read_provenance(file) if file.is_file() else {}


def require_corpus(description: Mapping[str, Any], file: Path) -> None:
    """Raise ArchlabError if a file's description of its data (`Task.describe`) cannot be shown."""
    if not has_type(description.get("bytes", {}), dict[str, int]):
        raise ArchlabError(f"{file}: the sizes of the data's splits are {description['bytes']!r:.40}")
