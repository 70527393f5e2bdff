"""The user's cache of prepared tokens: found by a digest of text and tokenizer, made by one process at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from archlab.data.prepared.build import Recipe, build
from archlab.data.prepared.corpus import PreparedCorpus, open_corpus
from archlab.data.prepared.manifest import FORMAT, MANIFEST, read_json
from archlab.data.prepared.source_cache import know_source, known_digest
from archlab.data.prepared.writer import JOURNAL
from archlab.data.survey import Source
from archlab.data.tokenizers import Tokenizer
from archlab.errors import ArchlabError
from archlab.runtime.progress import report_progress
from archlab.runtime.user_cache import usable_cache_dir

VARIABLE = "ARCHLAB_TOKENS"
SOURCES = "sources"
_POLL_S = 0.5
_log = logging.getLogger(__name__)


def tokens_dir() -> Path:
    """Return the directory of prepared tokens: that of ARCHLAB_TOKENS, or else one in the user's cache."""
    named = os.environ.get(VARIABLE)
    if not named:
        return usable_cache_dir("tokens")
    folder = Path(named).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchlabError(f"{folder}: cannot be created: {error.strerror}; {VARIABLE} names it") from error
    return folder


def open_prepared(source: Source, eval_bytes: int | None, tokenizer: Tokenizer) -> PreparedCorpus:
    """Return a source's tokens from the user's cache; make them if they are not there, or damaged."""
    root = tokens_dir()
    digest = known_digest(source, root / SOURCES)
    if digest is not None:
        found = _open_sound(root / _key(digest, eval_bytes, tokenizer))
        if found is not None:
            return found
    known = know_source(source, eval_bytes, root / SOURCES)
    recipe = Recipe(known, tokenizer, _key(known.sha256, eval_bytes, tokenizer))
    folder = root / recipe.key
    with _only_one(root / f"{recipe.key}.lock", _partial(folder)):
        # Another process may have made them, or this one's glance at the files have missed that they changed.
        found = _open_sound(folder)
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            build(recipe, _partial(folder), folder)
    return found or open_corpus(folder)


def prepare_at(source: Source, eval_bytes: int | None, tokenizer: Tokenizer, folder: Path) -> PreparedCorpus:
    """Make the tokens of a source in a directory of its own.

    Raises ArchlabError for a directory that holds anything else.
    """
    folder = folder.parent.resolve() / folder.name
    known = know_source(source, eval_bytes, tokens_dir() / SOURCES)
    recipe = Recipe(known, tokenizer, _key(known.sha256, eval_bytes, tokenizer))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(folder.with_name(f".{folder.name}.lock"), _partial(folder)):
        if os.path.lexists(folder):
            _require_same(folder, recipe.key)
        else:
            build(recipe, _partial(folder), folder)
    return open_corpus(folder)


def _require_same(folder: Path, key: str) -> None:
    """Raise ArchlabError unless a directory holds these tokens, undamaged."""
    found = read_json(folder / MANIFEST)
    if found is None or found.get("key") != key:
        what = "holds something else" if found is None else "holds the tokens of another text or tokenizer"
        raise ArchlabError(f"{folder}: {what}; name another directory, or remove this one")
    open_corpus(folder)


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _key(digest: str, eval_bytes: int | None, tokenizer: Tokenizer) -> str:
    """Return the name of tokens, which a change of anything that they depend on changes."""
    meaning = {key: value for key, value in tokenizer.model_tokens().to_plain().items() if key != "files"}
    parts = json.dumps([FORMAT, digest, eval_bytes, meaning], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _open_sound(folder: Path) -> PreparedCorpus | None:
    """Return undamaged tokens, or None if there are none; log a warning about damage."""
    try:
        return open_corpus(folder) if folder.is_dir() else None
    except ArchlabError as error:
        _log.warning("%s: the text is tokenized again", error)
        return None


@contextmanager
def _only_one(lock: Path, partial: Path) -> Iterator[None]:
    """Hold a lock that other processes which make the same tokens wait for, while they show how far this one is."""
    while (descriptor := _try_lock(lock)) is None:
        _report_other(partial)
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _try_lock(lock: Path) -> int | None:
    """Return the open file of a lock, or None while another process has it; the kernel takes it from one that ends."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The process that had it may have removed the file meanwhile: the next one would lock another.
        if os.fstat(descriptor).st_ino == lock.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _report_other(partial: Path) -> None:
    journal = read_json(partial / JOURNAL) or {"splits": {}, "place": {}}
    done = sum(counts["bytes"] for counts in journal["splits"].values())
    total = journal["place"].get("total")
    size = f" of {total / 1e6:,.0f} MB" if total else ""
    report_progress(f"waiting for the process that tokenizes the text{size}", min(done, (total or done + 1) - 1), total)
