"""Tokens of a source, made once: from documents to a directory of files."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from archlab.data.prepared.blocks import checksums
from archlab.data.prepared.manifest import Manifest, write_manifest
from archlab.data.prepared.source_cache import KnownSource
from archlab.data.prepared.writer import JOURNAL, TokenWriter
from archlab.data.split_plan import Part, SplitCursor
from archlab.data.survey import Document
from archlab.data.tokenizers import SEPARATOR, Tokenizer
from archlab.errors import ArchlabError, MachineError
from archlab.runtime.fsync import fsync_path
from archlab.runtime.progress import report_progress, report_within

_GROUP = 2**21  # bytes that are encoded together: enough for all cores, and little to do again for a killed process
_REPORT_FROM = 2**20  # bytes of a text that takes more than a moment
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Recipe:
    """The sources of tokens: a text that was read once, and a tokenizer; equal `key`s have equal tokens."""

    known: KnownSource
    tokenizer: Tokenizer
    key: str


def build(recipe: Recipe, partial: Path, folder: Path) -> None:
    """Write the tokens into the directory `partial`, or continue with it, and rename it to `folder` at the end.

    Raises ArchlabError for a text that the tokenizer has no tokens for or that changes meanwhile, MachineError where
    the disk is full; nothing is left of either.
    """
    try:
        _write(recipe, partial)
        partial.rename(folder)
        fsync_path(folder.parent)
    except OSError as error:
        if error.errno not in _FULL:
            raise  # written files stay, for the next attempt
        shutil.rmtree(partial, ignore_errors=True)
        free = "; free some space, or have tokens kept elsewhere: set ARCHLAB_TOKENS to a directory"
        raise MachineError(f"{folder}: the tokens cannot be written: {error.strerror}{free}") from error
    except ArchlabError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(recipe: Recipe, partial: Path) -> None:
    writer = TokenWriter(partial, recipe.key, recipe.tokenizer)
    with writer.open():
        _encode(recipe, writer)
    recipe.known.require_unchanged()
    contents = recipe.tokenizer.model_tokens().files
    for name, data in contents.items():
        (partial / name).write_bytes(data)
    (partial / JOURNAL).unlink(missing_ok=True)
    names = sorted(entry.name for entry in partial.iterdir())
    write_manifest(partial, _manifest(recipe, writer, checksums(partial, names)))
    fsync_path(partial)


def _manifest(recipe: Recipe, writer: TokenWriter, files: dict[str, Any]) -> Manifest:
    tokenizer, known = recipe.tokenizer, recipe.known
    return Manifest(
        key=recipe.key,
        source=str(known.source),
        corpus=known.describe(),
        tokenizer=tokenizer.model_tokens().to_plain(),
        vocab_size=tokenizer.vocab_size,
        dtype=writer.dtype.str,
        prefix=list(tokenizer.prefix),
        separator_bytes=tokenizer.num_bytes(SEPARATOR),
        splits=writer.counts,
        files=files,
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in ("archlab", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _encode(recipe: Recipe, writer: TokenWriter) -> None:
    """Encode the documents after the position in the writer's journal, a few megabytes at a time."""
    place, plan = writer.place, recipe.known.plan
    cursor = SplitCursor(plan, dict(place.get("offsets", {})))
    total = sum(stop - start for ranges in plan.ranges.values() for _, start, stop in ranges)
    group: list[Part] = []
    size = 0
    for shard, number, document in _documents(recipe, place.get("shard", 0), place.get("document", 0)):
        parts = list(cursor.cut(*document))
        group += parts
        size += sum(len(part.text) for part in parts)
        if size >= _GROUP:
            _write_group(recipe, writer, group, size, total)
            writer.note({"shard": shard, "document": number + 1, "offsets": cursor.offsets, "total": total})
            group, size = [], 0
    _write_group(recipe, writer, group, size, total)
    if total >= _REPORT_FROM:
        report_progress(_label(total), total, total)


def _write_group(recipe: Recipe, writer: TokenWriter, group: list[Part], size: int, total: int) -> None:
    done, label = min(writer.num_bytes, total), _label(total)
    if total >= _REPORT_FROM and done < total:
        report_progress(label, done, total)
    try:
        with report_within(label, done, min(size, total - done), total):
            writer.write(group)
    except ArchlabError as error:
        raise ArchlabError(f"{recipe.known.source}: {error}") from error


def _label(total: int) -> str:
    return f"tokenizing {total / 1e6:,.0f} MB"


def _documents(recipe: Recipe, shard: int, document: int) -> Iterator[tuple[int, int, Document]]:
    """Yield the documents from one on, each with its number in its shard, and the number of that."""
    shards = recipe.known.source.shards()
    for index in range(shard, len(shards)):
        first = document if index == shard else 0
        documents = shards[index].read(lambda num_bytes: None)
        for number, one in enumerate(islice(documents, first, None), first):
            yield index, number, one
