"""A corpus is split by the names of its documents, by their hash, or by position."""

from pathlib import Path

import pytest
from data_helpers import SENTENCES, SPLITS, write_json_lines

from archlab import ArchlabError
from archlab.data.corpus import Corpus, read_corpus
from archlab.data.text_sources import TextFiles


def read(path: Path, glob: str = "**/*", eval_bytes: int | None = None, strict: bool = False) -> Corpus:
    return read_corpus(TextFiles(str(path), glob, "text"), eval_bytes, strict)


def test_every_document_is_in_one_split(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl")
    corpus = read(tmp_path)
    assert sorted(part for split in SPLITS for part in corpus.texts[split].decode().split("\0")) == sorted(SENTENCES)
    assert (corpus.documents, corpus.split_by) == (300, "documents")


def test_documents_named_by_their_split_are_that_split(tmp_path: Path) -> None:
    for split, part in (("train", SENTENCES[:200]), ("valid", SENTENCES[200:250]), ("test", SENTENCES[250:])):
        write_json_lines(tmp_path / f"wiki.{split}.jsonl", part)
    corpus = read(tmp_path)
    assert corpus.split_by == "names"
    assert corpus.texts["validation"].decode().split("\0") == SENTENCES[200:250]
    assert corpus.texts["train"].decode().split("\0") == SENTENCES[:200]


def test_text_that_is_not_utf8_is_named_if_it_must_be(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes("viele grüne Enten ".encode("latin-1") * 50)
    read(tmp_path)
    with pytest.raises(ArchlabError, match=r"old\.txt: is not UTF-8: byte 0xFC at 8; convert the file"):
        read(tmp_path, strict=True)


def test_a_cap_never_cuts_a_character(tmp_path: Path) -> None:
    for name in SPLITS:
        (tmp_path / f"{name}.txt").write_text("€ ü " * 40)
    for cap in range(20, 30):
        text = read(tmp_path, eval_bytes=cap, strict=True).texts["test"]
        assert cap - 3 < len(text.decode().encode()) <= cap
