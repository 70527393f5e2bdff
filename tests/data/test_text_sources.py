"""Sources find their documents: files, a library's Python sources, the splits of a published data set."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
from data_helpers import SENTENCES

from archlab import ArchlabError
from archlab.data.corpus import read_corpus
from archlab.data.file_stamps import Stamp
from archlab.data.text_sources import HubDataset, StdlibSource, TextFiles


def names(source: TextFiles | StdlibSource | HubDataset) -> list[str]:
    return [name for name, _ in source.documents()]


def test_hidden_files_and_those_of_other_patterns_are_left_out(tmp_path: Path) -> None:
    for name in (".git/object.txt", ".hidden.txt", "skip.bin", "b.txt", "a/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert names(TextFiles(str(tmp_path), "**/*.txt", "text")) == ["a/c.txt", "b.txt"]
    assert names(TextFiles(str(tmp_path / "b.txt"), "**/*", "text")) == ["b.txt"]
    with pytest.raises(ArchlabError, match=r"no file matches '\*\.md'"):
        names(TextFiles(str(tmp_path), "*.md", "text"))


def test_a_fifo_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchlabError, match="pipe: cannot be read"):
        names(TextFiles(str(tmp_path), "**/*", "text"))


def test_installed_packages_and_caches_are_left_out(tmp_path: Path) -> None:
    for name in ("b.py", "a/c.py", "site-packages/x.py", "a/dist-packages/x.py", "__pycache__/x.py", "a/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert names(StdlibSource(str(tmp_path))) == ["a/c.py", "b.py"]


def test_a_python_without_sources_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"no \*\.py files; this Python comes without"):
        names(StdlibSource(str(tmp_path)))


class Rows(list[dict[str, str]]):
    column_names = ("text", "title")


def publish(monkeypatch: pytest.MonkeyPatch, parts: dict[str, Rows] | Exception) -> None:
    def load_dataset(name: str, config: str | None) -> dict[str, Rows]:
        if isinstance(parts, Exception):
            raise parts
        return parts

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_published_data_set_keeps_its_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"train": SENTENCES[:200], "valid": ["", *SENTENCES[200:250]], "test": SENTENCES[250:]}
    publish(monkeypatch, {name: Rows({"text": text, "title": ""} for text in part) for name, part in parts.items()})
    source = HubDataset("some/set", "raw", "text")
    assert str(source) == "some/set (raw)"
    found = list(source.documents())
    assert [text.decode() for name, text in found if name.startswith("valid/")] == parts["valid"]
    assert len(found) == 301
    with pytest.raises(ArchlabError, match=r"some/set: no column 'txt'; did you mean 'text'\?"):
        names(HubDataset("some/set", None, "txt"))


def test_a_data_set_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, ConnectionError("no route to host"))
    with pytest.raises(
        ArchlabError, match=r"^far/away \(x\): cannot be loaded; .* online or in its cache: no route to host$"
    ):
        names(HubDataset("far/away", "x", "text"))
    publish(monkeypatch, {"extra": Rows(), "test": Rows()})
    with pytest.raises(ArchlabError, match="near: has no train split, only extra, test"):
        names(HubDataset("near", None, "text"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ArchlabError, match="near: needs the datasets library: pip install datasets"):
        names(HubDataset("near", None, "text"))


def test_splits_that_a_data_set_lacks_are_cut_from_train(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parts = {"train": SENTENCES[:200], "Eval": SENTENCES[200:], "unsupervised": ["no"]}
    publish(monkeypatch, {name: Rows({"text": text, "title": ""} for text in part) for name, part in parts.items()})
    corpus = read_corpus(HubDataset("some/other", None, "text"), None)
    assert corpus.texts["test"].decode().split("\0") == SENTENCES[200:]
    cut = (corpus.texts["train"] + b"\0" + corpus.texts["validation"]).decode().split("\0")
    assert sorted(cut) == sorted(SENTENCES[:200])
    assert "some/other: left out, no splits by name: unsupervised" in caplog.text


def test_a_row_without_text_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, {"train": Rows([{"text": "a"}, {"text": None}])})  # type: ignore[dict-item]
    with pytest.raises(ArchlabError, match="empty, train row 1: the field 'text' is not a string but NoneType"):
        names(HubDataset("empty", None, "text"))


class CachedRows(Rows):
    """Rows of a file, as the library maps them."""

    def __init__(self, rows: Iterable[dict[str, str]], file: Path) -> None:
        super().__init__(rows)
        self.cache_files = [{"filename": str(file)}]


def test_a_data_set_is_read_again_where_its_files_have_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("archlab.data.file_stamps._TICK_S", 0.0)
    file, source = tmp_path / "train.arrow", HubDataset("some/set", None, "text")
    publish(monkeypatch, {"train": CachedRows([{"text": "a", "title": ""}], file)})
    assert source.stamp() == Stamp("", False), "a file that is gone has no stamp"
    file.write_text("1")
    first = source.stamp()
    assert first.is_settled
    assert source.stamp() == first
    assert HubDataset("some/set", None, "title").stamp() != first
    file.write_text("12")
    assert source.stamp() != first
    publish(monkeypatch, {"train": Rows([{"text": "a", "title": ""}])})  # in memory alone
    assert not source.stamp().is_settled
    assert not StdlibSource(str(tmp_path)).stamp().is_settled


def test_an_empty_split_of_a_data_set_is_not_cut_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, {"train": Rows({"text": text, "title": ""} for text in SENTENCES), "test": Rows()})
    source = HubDataset("some/set", None, "text")
    assert list(source.documents())[-1] == ("test/0", b"")
    with pytest.raises(ArchlabError, match="test"):
        read_corpus(source, None, strict=True)
