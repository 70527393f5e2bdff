"""Names of splits in the names of files and folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from archlab.data.splits import SPLITS
from archlab.errors import ArchlabError

SplitBy: TypeAlias = Literal["names", "documents"]

# Forms such as `trainset` and `testdata` are these with an ending of _ENDING.
SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev", "devel"},
    "test": {"test", "testing", "devtest"},
    # Held out by any reading: the test split, or validation where another is named test.
    "eval": {"eval", "evaluation", "heldout", "holdout"},
}
_ANY_WORD = re.compile("|".join(sorted({word for words in SPLIT_WORDS.values() for word in words})), re.IGNORECASE)
_ENDING = re.compile(r"(?:sets?|data|split|files?)$")
_LETTERS = re.compile(r"[^\W\d_]+")
_CAMEL_CASE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ROW = re.compile(r":\d+$")
_MAX_NAMED = 3  # of the files that an error names


def find_split_names(name: str) -> frozenset[str]:
    """Return the splits that a path names, as `a/train/b.txt`, `valid.jsonl`, `wiki.test.raw` and `TestSet_1` do.

    `eval` is one of them, beside those of SPLITS.
    """
    if not _ANY_WORD.search(name):  # quickly, since there may be millions of names
        return frozenset()
    words = {form for run in _LETTERS.findall(name) for form in _word_forms(run)}
    found = {split for split, known in SPLIT_WORDS.items() if known & words}
    return frozenset(found - {"eval"} if found & {"validation", "test"} else found)


def is_split_name(name: str) -> bool:
    """Return whether a whole name is that of a split, in any case."""
    return any(_ENDING.sub("", name.lower()) in words for words in SPLIT_WORDS.values())


def _word_forms(run: str) -> Iterable[str]:
    parts = {run.lower(), *(part.lower() for part in _CAMEL_CASE.findall(run) if run.isascii())}
    return parts | {_ENDING.sub("", part) for part in parts}


def document_file(document: str) -> str:
    """Return the file of a document, whose name is the file's, with :row behind it in a table."""
    return _ROW.sub("", document)


def assign_splits(files: Sequence[str], location: object, remedy: str) -> dict[str, str]:
    """Return the split that each file names; empty if none names one.

    Raises ArchlabError naming files that name two splits, files that name none beside others that do, and a missing
    train split: a file of the test split must never be trained on.
    """
    found = {file: find_split_names(file) for file in files}
    unclear = [file for file, splits in found.items() if len(splits) > 1]
    if unclear:
        raise ArchlabError(f"{location}: {_list(unclear)} could be of two splits by name; {remedy}")
    named = {file: next(iter(splits)) for file, splits in found.items() if splits}
    unnamed = [file for file in found if file not in named]
    if named and unnamed:
        example = next(iter(named))
        raise ArchlabError(f"{location}: {_list(unnamed)} names no split, as {example!r} does; {remedy}")
    if named and "train" not in named.values():
        raise ArchlabError(
            f"{location}: {_list(list(named))} is held out by name, and nothing is named train; {remedy}"
        )
    return {file: _resolve_eval(split, set(named.values())) for file, split in named.items()}


def _resolve_eval(split: str, named: set[str]) -> str:
    if split != "eval":
        return split
    return "validation" if "test" in named and "validation" not in named else "test"


def _list(files: Sequence[str]) -> str:
    more = f" and {len(files) - _MAX_NAMED:,} more" if len(files) > _MAX_NAMED else ""
    return ", ".join(map(repr, files[:_MAX_NAMED])) + more


def missing_splits(named: Iterable[str]) -> list[str]:
    """Return the splits besides train that nothing is named after."""
    return [split for split in SPLITS if split != "train" and split not in set(named)]
