"""The table of prepared tokens and of the user's cache of them."""

from __future__ import annotations

import os
from pathlib import Path

from rich.table import Table
from rich.text import Text

from archlab.cli.terminal import foreign
from archlab.data.prepared import PreparedCorpus, tokens_dir
from archlab.data.prepared.manifest import MANIFEST
from archlab.data.splits import SPLITS
from archlab.runtime.memory import format_bytes
from archlab.text import shell_path


def prepared_table(corpus: PreparedCorpus) -> Table:
    """Return the path of tokens, their number and their vocabulary."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = {"tokens in": str(corpus.folder)} | {split: _split_row(corpus, split) for split in SPLITS}
    rows |= {
        "text": f"{corpus.manifest.source}, {corpus.documents:,} documents, split by {corpus.split_by}",
        "tokenizer": f"{corpus.tokenizer.model_tokens()}, {corpus.manifest.vocab_size:,} tokens",
        "on disk": format_bytes(folder_size(corpus.folder)),
    }
    for name, value in rows.items():
        table.add_row(Text(name, "bold"), foreign(value))
    return table


def _split_row(corpus: PreparedCorpus, split: str) -> str:
    counts = corpus.manifest.splits[split]
    share = f", {counts.bytes / counts.tokens:.2f} bytes each" if counts.tokens else ""
    return f"{counts.tokens:,} tokens in {counts.documents:,} documents{share}"


def describe_cache() -> tuple[str, str]:
    """Return the path and contents of the user's cache of tokens, and how to empty it."""
    folder = tokens_dir()
    corpora = len(list(folder.glob(f"*/{MANIFEST}")))
    size = folder_size(folder)
    held = f"{folder}: {corpora} {'corpus' if corpora == 1 else 'corpora'}, {format_bytes(size)}"
    return held, f"rm -r {shell_path(folder)} empties it" if size else ""


def folder_size(folder: Path) -> int:
    """Return the bytes of the files in a directory and below."""
    files = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sum(file.lstat().st_size for file in files if file.exists())
