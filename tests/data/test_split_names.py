"""A split's name counts anywhere in a path, and nothing held out by name is trained on."""

from pathlib import Path

import pytest
from data_helpers import SENTENCES, write_json_lines, write_parquet

from archlab import ArchlabError
from archlab.data.corpus import Corpus, read_corpus
from archlab.data.split_names import find_split_names
from archlab.data.text_sources import TextFiles


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("train/a.txt", "train"),
        ("a/b/Train/c.txt", "train"),
        ("a/train.txt", "train"),
        ("train.0.jsonl", "train"),
        ("train_1", "train"),
        ("trainData.txt", "train"),
        ("training.jsonl", "train"),
        ("wiki.valid.raw", "validation"),
        ("data/val-00000-of-00001.parquet", "validation"),
        ("DEV.TXT.GZ", "validation"),
        ("validation_matched", "validation"),
        ("Test.txt", "test"),
        ("TESTSet.csv", "test"),
        ("testdata2.txt", "test"),
        ("eval.jsonl", "eval"),
        ("eval/test.txt", "test"),
        ("heldout-monolingual/news.en.heldout-00000-of-00050", "eval"),
        ("contest.txt", ""),
        ("latest.txt", ""),
        ("prétest.txt", ""),
        ("a.txt", ""),
        ("train_test.txt", "test train"),
        ("train/test.txt", "test train"),
    ],
)
def test_a_name_determines_its_split(name: str, splits: str) -> None:
    assert " ".join(sorted(find_split_names(name))) == splits


def read(path: Path, **knobs: str) -> Corpus:
    return read_corpus(TextFiles(str(path), knobs.get("glob", "**/*"), "text", knobs.get("split_by", "names")), None)  # type: ignore[arg-type]


def documents(corpus: Corpus, split: str) -> list[str]:
    return corpus.texts[split].decode().split("\0")


def named(folder: Path, *names: str, number: int = 60) -> Path:
    """Write each file with sentences of its own, which begin with its name."""
    for name in names:
        texts = [f"{name} {text}" for text in SENTENCES[:number]]
        write = write_parquet if name.endswith("parquet") else write_json_lines
        write(folder / name, texts)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "validation.jsonl", "test.jsonl"),
        ("data/Train-00000-of-00001.jsonl", "data/Val-00000-of-00001.jsonl", "data/Test-00000-of-00001.jsonl"),
        ("raw/train/0.jsonl", "raw/dev/0.jsonl", "raw/test/0.jsonl"),
        ("train.jsonl", "eval.jsonl", "test.jsonl"),
        ("train.jsonl", "valid.jsonl", "eval.jsonl"),
    ],
)
def test_named_files_are_their_splits_whatever_documentation_stands_beside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    for extra in ("README.md", "LICENSE", "dataset_infos.json", ".gitattributes"):
        (tmp_path / extra).write_text("train on nothing of this")
    corpus = read(named(tmp_path, *names))
    assert corpus.split_by == "names"
    for name, split in zip(names, ("train", "validation", "test"), strict=True):
        assert [text.split()[0] for text in documents(corpus, split)] == [name] * 60
    assert "left out, not data by name: .gitattributes, LICENSE, README.md, dataset_infos.json" in caplog.text


def test_shards_of_the_hub_are_their_splits(tmp_path: Path) -> None:
    names = [f"data/train-0000{part}-of-00002.parquet" for part in range(2)]
    corpus = read(named(tmp_path, *names, "data/test-00000-of-00001.parquet"))
    assert {text.split()[0] for text in documents(corpus, "test")} == {"data/test-00000-of-00001.parquet"}
    assert {text.split()[0] for split in ("train", "validation") for text in documents(corpus, split)} == set(names)
    assert corpus.split_by == "names; validation cut from train by documents"


@pytest.mark.parametrize("held_out", [[], ["valid.jsonl"], ["test.jsonl"]])
@pytest.mark.parametrize("number", [3, 200])
def test_what_is_missing_is_cut_from_train_alone(tmp_path: Path, held_out: list[str], number: int) -> None:
    corpus = read(named(tmp_path, "train.jsonl", *held_out, number=number))
    splits = {split: corpus.texts[split].decode() for split in ("train", "validation", "test")}
    given = {"validation" if name == "valid.jsonl" else "test": name for name in held_out}
    for split, text in splits.items():
        if split in given:
            assert {part.split()[0] for part in text.split("\0")} == {given[split]}
        else:
            assert text
            assert "valid.jsonl" not in text
            assert "test.jsonl" not in text
    if number == 200:
        cut = [part for split in set(splits) - set(given) for part in splits[split].split("\0")]
        assert sorted(cut) == sorted(f"train.jsonl {text}" for text in SENTENCES[:200])


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("train.jsonl", "more.jsonl"), "'more.jsonl' names no split, as 'train.jsonl' does; name every file"),
        (("a.jsonl", "test/b.jsonl"), "'a.jsonl' names no split, as 'test/b.jsonl' does"),
        (("test.jsonl",), "'test.jsonl' is held out by name, and nothing is named train"),
        (("train/a.jsonl", "train/test_1.jsonl"), "'train/test_1.jsonl' could be of two splits by name"),
        (("1.jsonl", "2.jsonl", "3.jsonl", "4.jsonl", "x.test.jsonl"), "'3.jsonl' and 1 more names no split"),
    ],
)
def test_names_that_leave_a_doubt_are_refused(tmp_path: Path, names: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ArchlabError) as caught:
        read(named(tmp_path, *names, number=2))
    assert problem in str(caught.value)
    assert "or set task.split_by: documents" in str(caught.value)
    assert read(tmp_path, split_by="documents").split_by == "bytes"


def test_a_single_file_is_its_name_too(tmp_path: Path) -> None:
    named(tmp_path, "train.jsonl", "test.jsonl")
    assert read(tmp_path / "train.jsonl").split_by == "names; validation and test cut from train by documents"
    with pytest.raises(ArchlabError, match=r"'test\.jsonl' is held out by name"):
        read(tmp_path / "test.jsonl")


@pytest.mark.parametrize("name", ["test.jsonl", "test.txt", "test.json"])
def test_an_empty_split_is_not_replaced(tmp_path: Path, name: str) -> None:
    named(tmp_path, "train.jsonl")
    (tmp_path / name).write_text("[]" if name.endswith("json") else "")
    with pytest.raises(ArchlabError, match=rf"the test split, {name}, holds no text"):
        read(tmp_path)


def test_the_checksum_covers_names_text_and_splits(tmp_path: Path) -> None:
    sums = {read(named(tmp_path / "a", "train.jsonl", "test.jsonl")).sha256}
    sums.add(read(tmp_path / "a", split_by="documents").sha256)
    sums.add(read(named(tmp_path / "b", "train.jsonl", "test.jsonl", number=61)).sha256)
    (tmp_path / "a" / "test.jsonl").rename(tmp_path / "a" / "valid.jsonl")
    sums.add(read(tmp_path / "a").sha256)
    assert len(sums) == 4
    assert read(named(tmp_path / "c", "train.jsonl", "test.jsonl")).sha256 in sums


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    before = read(named(tmp_path, "train.jsonl"))
    assert read(tmp_path) is before
    named(tmp_path, "train.jsonl", number=61)
    assert read(tmp_path).documents == 61
