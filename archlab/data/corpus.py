"""Corpora: documents, read once per process and split into train, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from archlab.data.split_plan import SplitCursor, plan_splits
from archlab.data.splits import SPLITS
from archlab.data.survey import Source, survey_documents
from archlab.data.tokenizers import SEPARATOR


@dataclass(frozen=True)
class Corpus:
    """The text of each split; `available` counts the bytes of each before `eval_bytes` caps it."""

    texts: dict[str, bytes]
    available: dict[str, int]
    documents: int
    split_by: str
    sha256: str


@lru_cache(maxsize=4)
def read_corpus(source: Source, eval_bytes: int | None, strict: bool = False) -> Corpus:
    """Read and split a corpus; raise ArchlabError naming an input that is unreadable, empty, or (`strict`) not UTF-8.

    If names of files or folders determine splits, all must: a split that none names is cut from train, and a corpus
    that names a part of its files is refused. Without such names everything is train. The parts cut from train are
    documents, by the SHA-256 of their names; where they are too few to fill every split, the joined text is split by
    position: the last bytes are test, those before them validation. Empty documents are skipped.
    """
    documents = list(source.documents())
    survey = survey_documents(documents, source, strict)
    plan = plan_splits(survey, source, eval_bytes, strict)
    cursor, parts = SplitCursor(plan), dict[str, list[bytes]]((split, []) for split in SPLITS)
    for document in documents:
        for part in cursor.cut(*document):
            parts[part.split].append(part.text)
    available = dict(plan.available)
    texts = {split: SEPARATOR.join(parts[split]) for split in SPLITS}
    return Corpus(texts, available, survey.documents, plan.split_by, survey.sha256(plan.split_by, available))
