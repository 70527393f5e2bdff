"""Text tasks with tokenizers other than bytes, and published data sets as tasks."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from data_helpers import SENTENCES, SPLITS, write_json_lines, write_tokenizer

from archlab import ArchlabError
from archlab.components.task.dataset import Dataset
from archlab.components.task.text import Text


def test_the_fields_of_tables_are_documents(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "a.jsonl", field="content")
    task = Text(path=str(tmp_path), field="content")
    assert sorted(part for split in SPLITS for part in task.text(split).decode().split("\0")) == sorted(SENTENCES)
    assert task.describe()["documents"] == 300
    assert task.describe()["split_by"] == "documents"
    with pytest.raises(ArchlabError, match=r"a\.jsonl:1: no field 'contents'; did you mean 'content'\?"):
        Text(path=str(tmp_path), field="contents").check()


def test_a_tokenizer_file_makes_the_tokens(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "text" / "a.jsonl")
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer.json"))
    task = Text(path=str(tmp_path / "text"), tokenizer=tokenizer, eval_bytes=None)
    assert task.vocab_size == 400
    assert task.decode(task.encode("grüne Ente €")) == "grüne Ente €"
    inputs, targets = task.batch("train", 0, 2, 16, 0)
    assert inputs.max() < 400
    assert (inputs[:, 1:] == targets[:, :-1]).all()
    everything = task.decode(task._tokens("validation").tolist())
    assert everything == "".join(f"{part}<|endoftext|>" for part in task.text("validation").decode().split("\0"))
    assert task.bytes_per_token("validation") == len(task.text("validation")) / task.length("validation")
    assert task.describe()["tokens"]["validation"] == task.length("validation")


def test_special_tokens_that_fill_the_context_are_told(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    write_json_lines(tmp_path / "text" / "a.jsonl")
    file = str(write_tokenizer(tmp_path / "tokenizer.json"))
    made = tokenizers.Tokenizer.from_file(file)
    made.add_special_tokens(["<bos>", "<en>"])
    special = [(token, made.token_to_id(token)) for token in ("<bos>", "<en>")]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<bos> <en> $A", special_tokens=special)
    made.save(file)
    task = Text(path=str(tmp_path / "text"), tokenizer=file, special_tokens=True)
    task.check(2)
    with pytest.raises(ArchlabError, match=r"tokenizer\.json: 2 special tokens before a text fill train\.context"):
        task.check(1)


def test_text_is_streamed(tmp_path: Path) -> None:
    task = Text(path="x", tokenizer=str(write_tokenizer(tmp_path / "tokenizer.json")))
    assert "".join(task.decode_stream(task.encode("Ente € 💡 mal"))) == "Ente € 💡 mal"


def test_words_are_those_of_the_training_text(tmp_path: Path) -> None:
    for name, text in (("train", "a a b\nc b a"), ("valid", "a d\nb"), ("test", "c")):
        (tmp_path / f"{name}.txt").write_text(text)
    task = Text(path=str(tmp_path), tokenizer="words", vocab_size=4)
    assert task.vocab_size == 4
    assert task._tokens("validation").tolist() == [1, 0, 2, 3, 2]
    assert task.encode("b a zebra") == [3, 1, 0]
    assert task.bytes_per_token("validation") == 5 / 5
    with pytest.raises(ValueError, match="the tokenizer 'words' needs vocab_size"):
        Text(path="x", tokenizer="words")
    with pytest.raises(ValueError, match="vocab_size 4 is of the tokenizer 'words'; 'bytes' has its own"):
        Text(path="x", vocab_size=4)


def test_text_that_is_not_utf8_is_refused_only_if_it_is_tokenized(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes("viele grüne Enten ".encode("latin-1") * 50)
    Text(path=str(tmp_path)).check()
    with pytest.raises(ArchlabError, match=r"old\.txt: is not UTF-8: byte 0xFC at 8; convert the file"):
        Text(path=str(tmp_path), tokenizer="words", vocab_size=9).check()


class Rows(list[dict[str, str]]):
    column_names = ("text", "title")


def test_a_published_data_set_is_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train": SENTENCES[:200], "valid": ["", *SENTENCES[200:250]], "test": SENTENCES[250:]}
    tables = {name: Rows({"text": text, "title": ""} for text in part) for name, part in parts.items()}
    module = ModuleType("datasets")
    module.load_dataset = lambda name, config: tables  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    task = Dataset(name="some/set", config="raw")
    assert task.text("validation").decode().split("\0") == SENTENCES[200:250]
    assert task.describe()["split_by"] == "names"
    assert task.describe()["source"] == "some/set (raw)"
    with pytest.raises(ArchlabError, match=r"some/set: no column 'txt'; did you mean 'text'\?"):
        Dataset(name="some/set", field="txt").check(8)
