"""Checksums of large files, block by block, so that a part can be checked where the whole would take hours."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from archlab.runtime.fsync import fsync_path
from archlab.runtime.progress import report_progress

BLOCK = 2**26  # bytes
_CHECKED = 4  # blocks of a file at each opening: the first, the last, and others at random
_REPORT_FROM = 2**30


def checksums(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the size of each file and the SHA-256 of each of its blocks; write them through to the disk."""
    total, done, found = sum((folder / name).stat().st_size for name in names), 0, dict[str, Any]()
    for name in names:
        fsync_path(folder / name)
        size = (folder / name).stat().st_size
        blocks = []
        for block in range(_num_blocks(size)):
            blocks.append(_sha256(folder / name, block))
            done += min(BLOCK, size)
            if total >= _REPORT_FROM:
                report_progress(f"checksums of {total / 1e9:,.0f} GB", min(done, total - 1), total)
        found[name] = {"size": size, "blocks": blocks}
    if total >= _REPORT_FROM:
        report_progress(f"checksums of {total / 1e9:,.0f} GB", total, total)
    return found


def find_damage(folder: Path, files: Mapping[str, Any], *, whole: bool = False) -> str:
    """Return the problem of the first damaged file, or ""; checks some blocks of a large file, all if `whole`."""
    return next(_damages(folder, files, whole), "")


def _damages(folder: Path, files: Mapping[str, Any], whole: bool) -> Iterator[str]:
    for name, expected in files.items():
        path, size = folder / name, expected["size"]
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != size:
            yield f"{name} has {path.stat().st_size:,} bytes and not {size:,}"
    for name, expected in files.items():
        blocks = expected["blocks"]
        if len(blocks) != _num_blocks(expected["size"]):
            yield f"{name} has checksums of another size"
        for block in range(len(blocks)) if whole else _some(len(blocks)):
            if _sha256(folder / name, block) != blocks[block]:
                yield f"{name} is damaged between the bytes {block * BLOCK:,} and {(block + 1) * BLOCK:,}"


def _some(count: int) -> Sequence[int]:
    if count <= _CHECKED:
        return range(count)
    return [0, count - 1, *random.sample(range(1, count - 1), _CHECKED - 2)]


def _num_blocks(size: int) -> int:
    return -(-size // BLOCK)


def _sha256(path: Path, block: int) -> str:
    with path.open("rb") as file:
        file.seek(block * BLOCK)
        return hashlib.sha256(file.read(BLOCK)).hexdigest()
