"""The vocabulary of a corpus's most frequent words, counted once and kept."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path

from archlab.data.prepared.cache import SOURCES, tokens_dir
from archlab.data.prepared.source_cache import KnownSource, know_source, known_digest
from archlab.data.split_plan import SplitCursor
from archlab.data.survey import Source
from archlab.data.tokenizers import WordTokenizer, load_words, split_words
from archlab.errors import ArchlabError
from archlab.runtime.progress import report_progress

_FOLDER = "vocabularies"
_REPORT_EVERY = 2**22  # bytes


def word_tokenizer(source: Source, vocab_size: int) -> WordTokenizer:
    """Return the tokenizer of the most frequent words of a source's training text."""
    root = tokens_dir()
    digest = known_digest(source, root / SOURCES)
    kept = _read(root, digest, vocab_size) if digest else None
    if kept is not None:
        return kept
    # Held-out text is counted for nothing, so that its cap does not matter.
    known = know_source(source, None, root / SOURCES)
    tokenizer = _read(root, known.sha256, vocab_size) or WordTokenizer.from_counts(_count(known), vocab_size)
    _keep(root, known.sha256, tokenizer)
    return tokenizer


def _count(known: KnownSource) -> Counter[str]:
    # The training text alone: the vocabulary must not know the words of held-out text.
    counts, cursor, done = Counter[str](), SplitCursor(known.plan), 0
    total, reported = known.plan.available["train"], 0
    for shard in known.source.shards():
        for document in shard.read(lambda num_bytes: None):
            for part in cursor.cut(*document):
                if part.split == "train":
                    counts.update(split_words(part.text if part.is_last else part.text + b"\n"))
                    done += len(part.text) + 1
            if done - reported >= _REPORT_EVERY:
                reported = done
                report_progress(_label(total), min(done, total - 1), total)
    if reported:
        report_progress(_label(total), total, total)
    return counts


def _label(total: int) -> str:
    return f"counting the words of {total / 1e6:,.0f} MB"


def _folder(root: Path, digest: str, vocab_size: int) -> Path:
    return root / _FOLDER / hashlib.sha256(f"{digest} {vocab_size}".encode()).hexdigest()[:32]


def _read(root: Path, digest: str, vocab_size: int) -> WordTokenizer | None:
    """Return a vocabulary that was kept, whose file is named by the digest of its content."""
    for file in _folder(root, digest, vocab_size).glob("*.json"):
        try:
            tokenizer = load_words(str(file))
        except ArchlabError:  # damaged: the words are counted again
            continue
        if tokenizer.sha256 == file.stem:
            return tokenizer
    return None


def _keep(root: Path, digest: str, tokenizer: WordTokenizer) -> None:
    folder = _folder(root, digest, tokenizer.vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{tokenizer.sha256}.partial-{os.getpid()}"
    try:
        partial.write_bytes(tokenizer.data)
        partial.replace(folder / f"{tokenizer.sha256}.json")
    finally:
        partial.unlink(missing_ok=True)
