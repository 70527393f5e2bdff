"""The manifest of prepared tokens: their sources and numbers, and checksums of the files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from archlab.data.prepared.blocks import find_damage
from archlab.data.splits import SPLITS
from archlab.errors import ArchlabError
from archlab.runtime.fsync import fsync_path

MANIFEST, KIND, FORMAT = "prepared.json", "prepared tokens", 1


@dataclass
class SplitCounts:
    """The size of a split: its tokens, its documents, and its bytes, those that its tokens stand for, and those lost.

    `example` shows lost text; for train nothing is compared.
    """

    tokens: int = 0
    documents: int = 0
    bytes: int = 0
    lost: int = 0
    example: str = ""


@dataclass(frozen=True)
class Manifest:
    """The contents of a directory of prepared tokens.

    Attributes:
        key: A digest of the text, of how it is split, and of the tokenizer: the same key is the same tokens.
        source: The path of the text, for information only.
        corpus: Documents, split_by, sha256, eval_bytes, and bytes_available by split.
        tokenizer: Kind, sha256, special tokens and the files of the tokenizer, as `ModelTokens.to_plain`.
        vocab_size: The number of tokens that the tokenizer has.
        dtype: The type of a token in the files, in numpy's words, little-endian.
        prefix: The tokens that precede every window.
        separator_bytes: The bytes that the end of a document counts for.
        splits: The size of each split.
        files: Size and checksums of every other file.
        versions: The versions of archlab and of the tokenizers library.
    """

    key: str
    source: str
    corpus: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    vocab_size: int
    dtype: str
    prefix: list[int]
    separator_bytes: int
    splits: Mapping[str, SplitCounts]
    files: Mapping[str, Any]
    versions: Mapping[str, str]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest with its own checksum."""
    body = {"kind": KIND, "format": FORMAT, **asdict(manifest)}
    write_json(folder / MANIFEST, {**body, "sha256": _digest(body)})


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a file of JSON atomically, through to the disk."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(json.dumps(data, indent=1), encoding="utf-8")
        fsync_path(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file of JSON, or None if there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def read_manifest(folder: Path, *, whole: bool = False) -> Manifest:
    """Return the manifest of a directory whose files match it; raise ArchlabError naming a mismatch.

    Sizes are compared, and checksums of a few blocks of each file, or, with `whole`, of all of them.
    """
    data = read_json(folder / MANIFEST)
    if data is None or data.get("kind") != KIND:
        raise ArchlabError(f"{folder}: holds no prepared tokens: {MANIFEST} is missing or damaged")
    if data.get("format") != FORMAT:
        raise ArchlabError(f"{folder}: its tokens are of format {data.get('format')!r}, and not {FORMAT}")
    body = {key: value for key, value in data.items() if key != "sha256"}
    if _digest(body) != data.get("sha256"):
        raise ArchlabError(f"{folder}: {MANIFEST} is damaged")
    splits = {split: SplitCounts(**body["splits"][split]) for split in SPLITS}
    manifest = Manifest(**{**{key: body[key] for key in body if key not in ("kind", "format")}, "splits": splits})
    if damage := find_damage(folder, manifest.files, whole=whole):
        raise ArchlabError(f"{folder}: {damage}")
    return manifest


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
