"""The directory of prepared corpora that experiments name, which the user sets once."""

from __future__ import annotations

import os
from pathlib import Path

from archlab.data.prepared.manifest import MANIFEST
from archlab.data.tokenizers import MissingTokenizerError
from archlab.errors import ArchlabError, did_you_mean
from archlab.runtime.user_dirs import user_root

VARIABLE = "ARCHLAB_CORPORA"


class MissingCorpusError(MissingTokenizerError):
    """A prepared corpus that an experiment names is not there, nor its tokenizer."""


def corpora_dir() -> Path | None:
    """Return the directory of the corpora that experiments name: that of ARCHLAB_CORPORA, or one of the user's data."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    root = user_root("XDG_DATA_HOME", ".local/share")
    return root and root / "archlab" / "corpora"


def corpus_place(name: str) -> Path:
    """Return the directory of a prepared corpus, whether it is there or not: a path, or a name among the user's own."""
    if os.sep in name or name.startswith("~"):
        return Path(name).expanduser()
    root = corpora_dir()
    if root is None:
        raise ArchlabError(f"there is no home directory for the corpus {name!r}: set {VARIABLE} to a directory")
    return root / name


def find_corpus(name: str, advice: str) -> Path:
    """Return the directory of a prepared corpus; raise MissingCorpusError telling where it was looked for."""
    place = corpus_place(name)
    if (place / MANIFEST).is_file():
        return place
    if os.sep in name or name.startswith("~"):
        raise MissingCorpusError(f"{name}: no prepared corpus there; {advice}")
    known = sorted(file.parent.name for file in place.parent.glob(f"*/{MANIFEST}"))
    near = did_you_mean(name, known) if known else ""
    raise MissingCorpusError(f"no prepared corpus {name!r} in {place.parent} ({VARIABLE}){near}; {advice}")
