"""Identities: which run or search a file belongs to, compared wherever two files of one meet.

An identity maps names to texts: `run` or `search` to a UUID, `experiment`, `space` or `data` to a SHA-256, `budget` to
the source of a run's number of steps. It is stored as JSON under the key `identity`. Files of earlier versions
have none, and belong to everything.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from archlab.errors import ArchlabError

Identity: TypeAlias = Mapping[str, str]
KEY = "identity"


def new_id() -> str:
    """Return a UUID for a new run or search."""
    return str(uuid.uuid4())


def content_hash(data: Any) -> str:
    """Return the SHA-256 of plain data (YAML or JSON), the same for every order of keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def identity_in(data: Mapping[str, Any], file: Path) -> Identity:
    """Return the identity in a file's data, empty if it has none; raise ArchlabError if it is not an identity."""
    identity = data.get(KEY, {})
    if not isinstance(identity, Mapping) or not all(isinstance(part, str) for part in identity.values()):
        raise ArchlabError(f"{file}: {KEY} is not a mapping of names to texts")
    return identity


def require_same(found: Identity, file: Path, expected: Identity, other: object, advice: str = "") -> None:
    """Raise ArchlabError unless a file has the identity of another one, in the parts that both have."""
    for part, value in expected.items():
        if part in found and found[part] != value:
            shown = f"{found[part][:12]} and not {value[:12]}"
            raise ArchlabError(f"{file}: its {part} is not that of {other} ({shown}){advice and f'; {advice}'}")
