"""Documents in tables, tokenizers of any kind, and data sets by name."""

import gzip
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from archlab import ArchlabError
from archlab.components.task.dataset import Dataset
from archlab.components.task.text import Text
from archlab.data.corpus import find_split_name

SPLITS = ("train", "validation", "test")
SENTENCES = [f"the {n} grüne Ente schwimmt {n * n} mal €" for n in range(300)]


def json_lines(file: Path, texts: list[str] = SENTENCES, field: str = "text") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        "".join(json.dumps({field: text, "id": n}, ensure_ascii=False) + "\n" for n, text in enumerate(texts))
    )
    return file


def parquet(file: Path, texts: list[str | None] | list[str] = SENTENCES, field: str = "text") -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
    from pyarrow import parquet as writer

    file.parent.mkdir(parents=True, exist_ok=True)
    writer.write_table(pyarrow.table({field: texts}), file)
    return file


def tokenizer(file: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizer files need tokenizers")
    rules = tokenizers.Tokenizer(tokenizers.models.BPE())
    rules.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rules.train_from_iterator(SENTENCES, trainer)
    rules.save(str(file))
    return file


def whole(task: Text | Dataset) -> list[str]:
    return sorted(part for split in SPLITS for part in task.text(split).decode().split("\0"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.parquet", "a.jsonl.gz"])
def test_every_document_of_a_table_is_read_once(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        parquet(tmp_path / name)
    else:
        plain = json_lines(tmp_path / "plain")
        data = plain.read_bytes()
        plain.unlink()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    task = Text(path=str(tmp_path))
    assert whole(task) == sorted(SENTENCES)
    assert task.describe()["documents"] == 300
    assert task.describe()["split_by"] == "documents"


def test_another_field_can_be_named(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl", field="content")
    assert whole(Text(path=str(tmp_path), field="content")) == sorted(SENTENCES)
    with pytest.raises(ArchlabError, match=r"a\.jsonl:1: no field 'contents'; did you mean 'content'\?"):
        Text(path=str(tmp_path), field="contents").check()
    parquet(tmp_path / "b" / "b.parquet", field="content")
    with pytest.raises(ArchlabError, match=r"b\.parquet: no column 'contents'; did you mean 'content'\?"):
        Text(path=str(tmp_path / "b"), field="contents").check()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "cut of', r"a\.jsonl:3: is not JSON: .*; the file is truncated"),
        (b"[1]\n", r"a\.jsonl:3: is not a JSON object but list"),
        (b'{"text": 3}\n', r"a\.jsonl:3: the field 'text' is not a string but int"),
        ('{"text": "gr\u00fcn"}\n'.encode("latin-1"), r"a\.jsonl:3: is not UTF-8: byte 0xFC at 12"),
        (b'oh {"text": "a"}\n{"text": "b"}\n', r"a\.jsonl:3: is not JSON: .*; a line holds one object"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: bytes, problem: str) -> None:
    file = json_lines(tmp_path / "a.jsonl", SENTENCES[:2])
    file.write_bytes(file.read_bytes() + line)
    with pytest.raises(ArchlabError, match=problem):
        Text(path=str(file)).check()


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    table = parquet(tmp_path / "a" / "a.parquet")
    table.write_bytes(table.read_bytes()[:-9])
    packed = tmp_path / "b" / "b.txt.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(b"text" * 1000)[:-9])
    with pytest.raises(ArchlabError, match=r"a\.parquet: is truncated or not a Parquet file"):
        Text(path=str(table)).check()
    with pytest.raises(ArchlabError, match=r"b\.txt\.gz: is truncated or damaged"):
        Text(path=str(packed)).check()


def test_a_column_must_hold_text(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"a\.parquet, row 1: the field 'text' is not a string but NoneType"):
        Text(path=str(parquet(tmp_path / "a.parquet", ["a", None]))).check()


def test_parts_that_are_named_are_taken_as_such(tmp_path: Path) -> None:
    for split, part in (("train", SENTENCES[:200]), ("valid", SENTENCES[200:250]), ("test", SENTENCES[250:])):
        json_lines(tmp_path / f"wiki.{split}.jsonl", part)
    task = Text(path=str(tmp_path))
    assert task.describe()["split_by"] == "names"
    assert task.text("validation").decode().split("\0") == SENTENCES[200:250]
    assert task.text("train").decode().split("\0") == SENTENCES[:200]
    json_lines(tmp_path / "more.jsonl")
    assert Text(path=str(tmp_path), glob="*.jsonl").describe()["split_by"] == "documents"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train/a.txt", "train"),
        ("wiki.valid.raw", "validation"),
        ("val-00000-of-00001.parquet:3", "validation"),
        ("Test.txt", "test"),
        ("training.jsonl:1", "train"),
        ("contest.txt", None),
        ("train_test.txt", None),
        ("a/train.txt", None),
    ],
)
def test_what_counts_as_the_name_of_a_part(name: str, split: str | None) -> None:
    assert find_split_name(name) == split


def test_a_tokenizer_file_makes_the_words(tmp_path: Path) -> None:
    json_lines(tmp_path / "text" / "a.jsonl")
    task = Text(path=str(tmp_path / "text"), tokenizer=str(tokenizer(tmp_path / "tokenizer.json")), eval_bytes=None)
    assert task.vocab_size == 400
    assert task.decode(task.encode("grüne Ente €")) == "grüne Ente €"
    inputs, targets = task.batch("train", 0, 2, 16, 0)
    assert inputs.max() < 400
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    everything = task.decode(task._tokens("validation").tolist())
    assert everything == "".join(f"{part}<|endoftext|>" for part in task.text("validation").decode().split("\0"))
    assert task.bytes_per_token("validation") == len(task.text("validation")) / task.length("validation")
    assert task.describe()["tokens"]["validation"] == task.length("validation")


def test_words_come_out_one_at_a_time(tmp_path: Path) -> None:
    task = Text(path="x", tokenizer=str(tokenizer(tmp_path / "tokenizer.json")))
    decoder, words = task.decoder(), task.encode("Ente € 💡 mal")
    pieces = [decoder(word) for word in words]
    assert "".join(pieces) + decoder.finish() == "Ente € 💡 mal"
    assert "" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


def test_the_most_frequent_words_are_known(tmp_path: Path) -> None:
    for name, text in (("train", "a a b\nc b a"), ("valid", "a d\nb"), ("test", "c")):
        (tmp_path / f"{name}.txt").write_text(text)
    task = Text(path=str(tmp_path), tokenizer="words", vocab_size=4)
    assert task.vocab_size == 4
    assert task.decode(range(4)) == "<unk> a \nb "
    assert task._tokens("validation").tolist() == [1, 0, 2, 3, 2]
    assert task.encode("b a zebra") == [3, 1, 0]
    assert task.bytes_per_token("validation") == 5 / 5
    with pytest.raises(ValueError, match="words need a vocab_size, others none"):
        Text(path="x", tokenizer="words")
    with pytest.raises(ValueError, match="words need a vocab_size, others none"):
        Text(path="x", vocab_size=4)


def test_text_that_is_not_utf8_is_named_where_it_is_tokenized(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes("viele grüne Enten ".encode("latin-1") * 50)
    Text(path=str(tmp_path)).check()
    with pytest.raises(ArchlabError, match=r"old\.txt: is not UTF-8: byte 0xFC at 8; convert the file"):
        Text(path=str(tmp_path), tokenizer="words", vocab_size=9).check()


def test_a_cap_never_cuts_a_character(tmp_path: Path) -> None:
    for name in SPLITS:
        (tmp_path / f"{name}.txt").write_text("€ ü " * 40)
    for cap in range(20, 30):
        task = Text(path=str(tmp_path), tokenizer="words", vocab_size=9, eval_bytes=cap)
        assert cap - 3 < len(task.text("test").decode().encode()) <= cap


@pytest.mark.parametrize("content", [None, "{}", "not json", b"\xff\xfe"])
def test_a_tokenizer_file_that_cannot_be_used_is_named(tmp_path: Path, content: str | bytes | None) -> None:
    pytest.importorskip("tokenizers", reason="tokenizer files need tokenizers")
    file = tmp_path / "words.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArchlabError, match=r"words\.json: (no such tokenizer file|is not a tokenizer\.json)"):
        _ = Text(path="x", tokenizer=str(file)).vocab_size


class Rows(list[dict[str, str]]):
    column_names = ("text", "title")


def published(monkeypatch: pytest.MonkeyPatch, parts: dict[str, Rows] | Exception) -> None:
    def load_dataset(name: str, config: str | None) -> dict[str, Rows]:
        if isinstance(parts, Exception):
            raise parts
        return parts

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_published_data_set_keeps_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train": SENTENCES[:200], "valid": ["", *SENTENCES[200:250]], "test": SENTENCES[250:]}
    published(monkeypatch, {name: Rows({"text": text, "title": ""} for text in part) for name, part in parts.items()})
    task = Dataset(name="some/set", config="raw")
    assert task.text("validation").decode().split("\0") == SENTENCES[200:250]
    assert task.describe()["split_by"] == "names"
    assert task.describe()["source"] == "some/set (raw)"
    with pytest.raises(ArchlabError, match=r"some/set: no column 'txt'; did you mean 'text'\?"):
        Dataset(name="some/set", field="txt").check(8)


def test_a_data_set_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    published(monkeypatch, ConnectionError("no route to host"))
    with pytest.raises(
        ArchlabError, match=r"^far/away \(x\): cannot be loaded; .* online or in its cache: no route to host$"
    ):
        Dataset(name="far/away", config="x").check(8)
    published(monkeypatch, {"train": Rows()})
    with pytest.raises(ArchlabError, match="near: has no validation split, only train"):
        Dataset(name="near").check(8)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ArchlabError, match="near: needs the datasets library: pip install datasets"):
        Dataset(name="near").check(8)


def test_what_missing_libraries_are_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ArchlabError, match=r"a\.parquet: Parquet needs the pyarrow library: pip install pyarrow"):
        Text(path=str(file)).check()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ArchlabError, match=r"t\.json: needs the tokenizers library: pip install tokenizers"):
        Text(path="x", tokenizer="t.json").encode("a")


def test_words_beyond_two_bytes_are_kept(tmp_path: Path) -> None:
    for name in SPLITS:
        (tmp_path / f"{name}.txt").write_text(" ".join(map(str, range(70_000))))
    task = Text(path=str(tmp_path), tokenizer="words", vocab_size=70_002, eval_bytes=None)
    assert task._tokens("test").dtype == np.uint32
    assert len(set(task._tokens("test").tolist())) == 70_001
