"""Preparing files of text in a directory of their own."""

from __future__ import annotations

from pathlib import Path

from archlab.data.prepared.cache import prepare_at
from archlab.data.prepared.corpus import PreparedCorpus
from archlab.data.prepared.vocabulary import word_tokenizer
from archlab.data.text_sources import TextFiles
from archlab.data.tokenizers import load_tokenizer, vocab_size_problem
from archlab.errors import ArchlabError


def prepare_text(
    path: Path,
    out: Path,
    tokenizer: str,
    *,
    vocab_size: int | None = None,
    special_tokens: bool = False,
    glob: str = "**/*",
    field: str = "text",
    eval_bytes: int | None = None,
) -> PreparedCorpus:
    """Make the tokens of a file or directory of text in the directory `out`.

    Raises ArchlabError for a text or tokenizer that is missing or damaged, and an `out` that holds anything else.
    """
    if problem := vocab_size_problem(tokenizer, vocab_size):
        raise ArchlabError(problem)
    source = TextFiles(str(path), glob, field)
    own = load_tokenizer(tokenizer, special_tokens) if vocab_size is None else word_tokenizer(source, vocab_size)
    return prepare_at(source, eval_bytes, own, out)
