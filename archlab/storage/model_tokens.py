"""What a model's tokens mean, kept beside its weights: tokens.json, and the files of its tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archlab.data.tokenizers.model_tokens import ModelTokens
from archlab.errors import ArchlabError, why_unreadable
from archlab.storage.files import atomic_dir, write_bytes

TOKENS = "tokens.json"
_TYPES = {"kind": str, "sha256": str, "special_tokens": bool, "before": list, "after": list, "files": list}


def token_files(tokens: ModelTokens | None) -> dict[str, bytes]:
    """Return the files of a vocabulary, by name; none for a model that reads real values."""
    if tokens is None:
        return {}
    return {TOKENS: (json.dumps(tokens.to_plain(), indent=2) + "\n").encode(), **tokens.files}


def write_tokens(folder: Path, tokens: ModelTokens) -> None:
    """Write the files into a directory of their own, all of them or none."""
    with atomic_dir(folder, replace=True) as partial:
        for name, data in token_files(tokens).items():
            write_bytes(partial / name, data)


def read_tokens(folder: Path) -> ModelTokens | None:
    """Return what a directory's tokens.json and its files say, or None if it has none, as older models have not.

    Raises ArchlabError naming a file that is damaged or is not the one that the model was trained with.
    """
    file = folder / TOKENS
    if not file.is_file():
        return None
    plain = _read_plain(file)
    files = {name: _read_file(folder, name) for name in plain.pop("files", [])}
    before, after = (tuple(plain.pop(side, ())) for side in ("before", "after"))
    tokens = ModelTokens(**plain, before=before, after=after, files=files)
    if tokens.file is not None and hashlib.sha256(files[tokens.file]).hexdigest() != tokens.sha256:
        raise ArchlabError(f"{folder / tokens.file}: has changed since it was written; its SHA-256 is in {TOKENS}")
    return tokens


def _read_plain(file: Path) -> dict[str, Any]:
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArchlabError(f"{file}: cannot be read: {why_unreadable(error)}") from error
    if not isinstance(plain, dict) or "kind" not in plain:
        raise ArchlabError(f"{file}: does not define what tokens mean")
    for key, value in plain.items():
        if not _has_type(value, _TYPES.get(key)):
            raise ArchlabError(f"{file}: {key!r} is {value!r}")
    return plain


def _has_type(value: object, type_: type | None) -> bool:
    if type_ is None or not isinstance(value, type_):
        return False
    return not isinstance(value, list) or all(isinstance(entry, str) for entry in value)


def _read_file(folder: Path, name: str) -> bytes:
    if Path(name).name != name:
        raise ArchlabError(f"{folder / TOKENS}: names {name!r}, which is not a file beside it")
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ArchlabError(f"{folder / name}: cannot be read: {error.strerror}") from error


def task_knobs(tokens: ModelTokens, folder: Path) -> Mapping[str, Any]:
    """Return the knobs that give a text task a model's tokens, whose files are in `folder`."""
    if tokens.kind not in ("bytes", "words", "tokenizer", "unknown"):
        return {}
    name = {"bytes": "bytes", "unknown": None}.get(tokens.kind, str(folder / (tokens.file or "")))
    return {"tokenizer": name, "special_tokens": tokens.special_tokens}
