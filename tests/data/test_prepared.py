"""Tokens are made once, whole, from the text that they are of, and read without memory."""

import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import SENTENCES, write_json_lines, write_tokenizer

from archlab import ArchlabError, MachineError
from archlab.data import prepared, survey
from archlab.data.corpus import read_corpus
from archlab.data.prepared import blocks, build, cache, corpora_dir, vocabulary, writer
from archlab.data.prepared.corpus import PreparedCorpus, _open, open_corpus
from archlab.data.prepared.manifest import FORMAT, MANIFEST
from archlab.data.text_sources import TextFiles
from archlab.data.tokenizers import ByteTokenizer, HuggingFaceTokenizer, Tokenizer, WordTokenizer
from archlab.runtime.progress import report_to


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARCHLAB_TOKENS", str(tmp_path / "cache"))
    monkeypatch.setattr("archlab.data.file_stamps._TICK_S", 0.0)  # a test does not wait until its files are old
    return tmp_path / "cache"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    write_json_lines(tmp_path / "text" / "a.jsonl", [*SENTENCES, "", "the last\n"])
    return tmp_path / "text"


@pytest.fixture
def tokenizer(tmp_path: Path) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(str(write_tokenizer(tmp_path / "tokenizer.json")))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of documents that were encoded, call by call."""
    counts, encode = list[int](), HuggingFaceTokenizer.encode_documents

    def counted(self: HuggingFaceTokenizer, texts: Any, **kwargs: Any) -> Any:
        counts.append(len(texts))
        return encode(self, texts, **kwargs)

    monkeypatch.setattr(HuggingFaceTokenizer, "encode_documents", counted)
    return counts


def source(path: Path) -> TextFiles:
    return TextFiles(str(path), "**/*", "text")


def folders(cache_dir: Path) -> list[Path]:
    return [file.parent for file in cache_dir.glob("*/prepared.json")]


def forget() -> None:
    """Have files opened again, as by another process."""
    _open.cache_clear()


@pytest.mark.parametrize("eval_bytes", [None, 700])
@pytest.mark.parametrize("kind", ["file", "words", "bytes"])
@pytest.mark.parametrize("few", [False, True])
def test_tokens_are_those_of_the_joined_text(
    kind: str, few: bool, eval_bytes: int | None, tmp_path: Path, tokenizer: HuggingFaceTokenizer, monkeypatch: Any
) -> None:
    monkeypatch.setattr(build, "_GROUP", 300)
    texts = [" ".join(SENTENCES[:99]), "", "€ and\n", " ".join(SENTENCES[200:])] if few else [*SENTENCES, "", "end\n"]
    write_json_lines(tmp_path / "text" / "a.jsonl", texts)
    own: Tokenizer = {"file": tokenizer, "words": WordTokenizer(b"the Ente mal", 9), "bytes": ByteTokenizer()}[kind]
    corpus, whole = (
        prepared.open_prepared(source(tmp_path / "text"), eval_bytes, own),
        read_corpus(source(tmp_path / "text"), eval_bytes, True),
    )
    assert whole.split_by == ("bytes" if few else "documents")
    assert (corpus.sha256, corpus.documents, corpus.available) == (whole.sha256, whole.documents, whole.available)
    for split, part in whole.texts.items():
        expected = own.encode_corpus(part)
        assert np.array_equal(corpus.tokens(split), expected)
        assert corpus.num_bytes(split) == own.num_bytes(part)
        assert corpus.ends(split)[-1] == len(expected)
        assert len(corpus.ends(split)) == len(part.split(b"\0"))
        if split != "train":
            assert corpus.text(split) == part
            assert corpus.lost(split)[0] == own.lost(part).num_bytes
    assert corpus.tokens("train").dtype == expected.dtype


def test_a_text_is_tokenized_once(text: Path, tokenizer: HuggingFaceTokenizer, encoded: list[int]) -> None:
    prepared.open_prepared(source(text), None, tokenizer)
    before = len(encoded)
    forget()
    prepared.open_prepared(source(text), None, tokenizer)
    assert len(encoded) == before


def test_a_text_that_has_not_changed_is_not_read(
    text: Path, tokenizer: HuggingFaceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared.open_prepared(source(text), None, tokenizer)
    monkeypatch.setattr(TextFiles, "shards", lambda self: pytest.fail("the text was read"))
    forget()
    assert prepared.open_prepared(source(text), None, tokenizer).folder == first.folder


def test_a_moved_text_is_the_same_and_an_edited_one_is_not(
    text: Path, tokenizer: HuggingFaceTokenizer, own_cache: Path
) -> None:
    first = prepared.open_prepared(source(text), None, tokenizer)
    moved = text.rename(text.with_name("moved"))
    assert prepared.open_prepared(source(moved), None, tokenizer).folder == first.folder
    file = moved / "a.jsonl"
    times = file.stat()
    file.write_bytes(file.read_bytes().replace(b"Ente", b"Gans", 1))  # of the same size
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # and, it says, of the same time
    edited = prepared.open_prepared(source(moved), None, tokenizer)
    assert edited.folder != first.folder
    assert edited.sha256 != first.sha256
    assert len(folders(own_cache)) == 2


def test_another_text_in_the_same_place_is_another(text: Path, tokenizer: HuggingFaceTokenizer) -> None:
    first = prepared.open_prepared(source(text), None, tokenizer)
    shutil.rmtree(text)
    write_json_lines(text / "a.jsonl", SENTENCES[::-1])
    assert prepared.open_prepared(source(text), None, tokenizer).folder != first.folder


def test_another_tokenizer_or_cap_makes_other_tokens(
    text: Path, tokenizer: HuggingFaceTokenizer, own_cache: Path
) -> None:
    for own, cap in ((tokenizer, None), (tokenizer, 99), (WordTokenizer(b"the mal", 3), None)):
        prepared.open_prepared(source(text), cap, own)
    assert len(folders(own_cache)) == 3


class Killed(BaseException):
    """The end of a process, as far as its files are concerned."""


def kill_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left, write = iter(range(count)), writer.TokenWriter.write

    def written(self: writer.TokenWriter, parts: Any) -> None:
        write(self, parts)
        if next(left, None) is None:
            raise Killed

    monkeypatch.setattr(writer.TokenWriter, "write", written)


@pytest.mark.parametrize("groups", [0, 3, 9])
def test_what_a_killed_process_began_continues(
    groups: int, tmp_path: Path, text: Path, tokenizer: HuggingFaceTokenizer, encoded: list[int], own_cache: Path
) -> None:
    write_json_lines(text / "b.jsonl", SENTENCES[:40])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_GROUP", 1500)
        patch.setattr(writer, "_EVERY_S", 0.0)
        patch.setattr(writer, "_PATIENCE", 0)
        expected = prepared.prepare_at(source(text), 999, tokenizer, tmp_path / "whole")
        whole = sum(encoded)
        kill_after(groups, patch)
        with pytest.raises(Killed):
            prepared.open_prepared(source(text), 999, tokenizer)
    [partial] = own_cache.glob(".*.partial")
    with (partial / "train.tokens").open("ab") as file:
        file.write(b"half")  # written after the last entry of the journal
    encoded.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_GROUP", 1500)
        found = prepared.open_prepared(source(text), 999, tokenizer)
    assert sum(encoded) <= whole - 20 * groups
    assert json.loads((found.folder / "prepared.json").read_text()) == json.loads(
        (expected.folder / "prepared.json").read_text()
    )
    for file in expected.folder.iterdir():
        assert (found.folder / file.name).read_bytes() == file.read_bytes()
    assert not list(own_cache.glob(".*"))


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "manifest", "no manifest"])
def test_damage_is_found_and_mended(
    damage: str, text: Path, tokenizer: HuggingFaceTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = prepared.open_prepared(source(text), None, tokenizer)
    expected = np.array(corpus.tokens("train"))
    file = corpus.folder / ("prepared.json" if "manifest" in damage else "train.tokens")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    if damage in ("truncated", "changed", "manifest"):
        file.write_bytes(data[:-2] if damage == "truncated" else data)
    forget()
    with caplog.at_level(logging.WARNING):
        again = prepared.open_prepared(source(text), None, tokenizer)
    assert "the text is tokenized again" in caplog.text
    assert again.folder == corpus.folder
    assert np.array_equal(again.tokens("train"), expected)


def test_of_a_large_file_some_blocks_are_checked_and_all_if_asked(
    text: Path, tokenizer: HuggingFaceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 64)
    corpus = prepared.open_prepared(source(text), None, tokenizer)
    read, sha256 = list[int](), blocks._sha256
    monkeypatch.setattr(blocks, "_sha256", lambda path, block: (read.append(block), sha256(path, block))[1])
    forget()
    open_corpus(corpus.folder)
    assert 10 < len(read) <= 4 * len(corpus.manifest.files)
    corpus.verify()
    file = corpus.folder / "train.tokens"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArchlabError, match=r"train\.tokens is damaged between the bytes 960 and 1,024$"):
        corpus.verify()


def test_a_full_disk_leaves_nothing(
    text: Path, tokenizer: HuggingFaceTokenizer, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, parts: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer.TokenWriter, "write", full)
    with pytest.raises(MachineError, match=r"the tokens cannot be written: No space left on device; free some space"):
        prepared.open_prepared(source(text), None, tokenizer)
    assert [file.name for file in own_cache.iterdir()] == ["sources"]


def test_what_was_written_stays_after_another_error_of_the_disk(
    text: Path, tokenizer: HuggingFaceTokenizer, own_cache: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_GROUP", 2000)
    monkeypatch.setattr(writer, "_EVERY_S", 0.0)
    monkeypatch.setattr(writer, "_PATIENCE", 0)
    write = writer.TokenWriter.write

    def failing(self: writer.TokenWriter, parts: Any) -> None:
        if len(encoded) > 4:
            raise OSError(errno.EIO, "Input/output error")
        write(self, parts)

    with monkeypatch.context() as patch:
        patch.setattr(writer.TokenWriter, "write", failing)
        with pytest.raises(OSError, match="Input/output error"):
            prepared.open_prepared(source(text), None, tokenizer)
    assert list(own_cache.glob(".*.partial"))
    before = sum(encoded)
    prepared.open_prepared(source(text), None, tokenizer)
    assert 0 < sum(encoded) - before < 301


def test_a_text_that_changes_while_it_is_read_is_refused(
    text: Path, tokenizer: HuggingFaceTokenizer, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = writer.TokenWriter.write

    def changed(self: writer.TokenWriter, parts: Any) -> None:
        write(self, parts)
        write_json_lines(text / "a.jsonl", SENTENCES[:50])

    monkeypatch.setattr(writer.TokenWriter, "write", changed)
    with pytest.raises(ArchlabError, match=r"text: has changed while it was read; start again"):
        prepared.open_prepared(source(text), None, tokenizer)
    assert not folders(own_cache)


def test_a_second_process_waits_for_the_first(
    text: Path, tokenizer: HuggingFaceTokenizer, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_POLL_S", 0.01)
    found, reported = list[Path](), list[str]()

    def prepare() -> None:
        with report_to(lambda what, done, total: reported.append(what)):
            found.append(prepared.open_prepared(source(text), None, tokenizer).folder)

    began, write = threading.Event(), writer.TokenWriter.write

    def slow(self: writer.TokenWriter, parts: Any) -> None:
        began.set()
        for _ in range(1000):
            if any("waiting for the process" in what for what in reported):
                break
            threading.Event().wait(0.01)
        write(self, parts)

    monkeypatch.setattr(writer.TokenWriter, "write", slow)
    threads = [threading.Thread(target=prepare) for _ in range(2)]
    threads[0].start()
    began.wait(10)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert sum(encoded) == 301 + 1  # each document once, and an empty one for the type of a token


def test_progress_is_reported_in_bytes(
    text: Path, tokenizer: HuggingFaceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_GROUP", 2000)
    monkeypatch.setattr(build, "_REPORT_FROM", 0)
    reported: list[tuple[int, int | None]] = []
    with report_to(lambda what, done, total: reported.append((done, total))):
        prepared.open_prepared(source(text), None, tokenizer)
    totals = {total for _, total in reported}
    assert len(totals) == 1
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)
    assert reported[-1][0] == reported[-1][1]
    assert len(reported) > 4


def test_a_directory_of_its_own_is_not_overwritten(text: Path, tokenizer: HuggingFaceTokenizer, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    first = prepared.prepare_at(source(text), None, tokenizer, out)
    assert prepared.prepare_at(source(text), None, tokenizer, out).folder == first.folder
    with pytest.raises(ArchlabError, match=r"mine: holds the tokens of another text or tokenizer; name another"):
        prepared.prepare_at(source(text), 77, tokenizer, out)
    (tmp_path / "other").mkdir()
    with pytest.raises(ArchlabError, match=r"other: holds something else; name another directory"):
        prepared.prepare_at(source(text), None, tokenizer, tmp_path / "other")
    assert not list(tmp_path.glob(".mine*"))


def test_a_large_vocabulary_takes_four_bytes_a_token(text: Path) -> None:
    corpus = prepared.open_prepared(source(text), None, WordTokenizer(b"the mal", 70_000))
    assert corpus.tokens("train").dtype == np.dtype("<u4")


def test_words_are_counted_once(text: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    first = prepared.word_tokenizer(source(text), 20)
    assert first == WordTokenizer(read_corpus(source(text), None, True).texts["train"], 20)
    with monkeypatch.context() as patch:
        patch.setattr(TextFiles, "shards", lambda self: pytest.fail("the text was read"))
        assert prepared.word_tokenizer(source(text), 20) == first
    [file] = own_cache.glob("vocabularies/*/*.json")
    file.write_bytes(file.read_bytes()[:-9])
    assert prepared.word_tokenizer(source(text), 20) == first


def test_a_text_without_tokens_leaves_nothing(tmp_path: Path, own_cache: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"ash": 0}, unk_token="?")).save(str(tmp_path / "t.json"))
    write_json_lines(tmp_path / "text" / "a.jsonl", ["ash", "larch"] * 50)
    with pytest.raises(ArchlabError, match=r"text: .*t\.json: has no tokens for 'larch'"):
        prepared.open_prepared(source(tmp_path / "text"), None, HuggingFaceTokenizer(str(tmp_path / "t.json")))
    assert not list(own_cache.glob(".*"))


def test_reading_maps_the_files(text: Path, tokenizer: HuggingFaceTokenizer) -> None:
    corpus = prepared.open_prepared(source(text), None, tokenizer)
    assert isinstance(corpus.tokens("train"), np.memmap)
    assert isinstance(corpus.ends("train"), np.memmap)


def reports_of(work: Callable[[], object]) -> dict[str, list[tuple[int, int | None]]]:
    """Return what was reported of each work."""
    reported = dict[str, list[tuple[int, int | None]]]()
    with report_to(lambda what, done, total: reported.setdefault(what, []).append((done, total))):
        work()
    return reported


def test_checksums_of_large_files_are_reported(
    text: Path, tokenizer: HuggingFaceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 1000)
    monkeypatch.setattr(blocks, "_REPORT_FROM", 0)
    corpora = list[PreparedCorpus]()
    reported = reports_of(lambda: corpora.append(prepared.open_prepared(source(text), None, tokenizer)))
    files = corpora[0].manifest.files.values()
    size, of_blocks = sum(file["size"] for file in files), reported["checksums of 0 GB"]
    assert len(of_blocks) == sum(len(file["blocks"]) for file in files) + 1
    assert [done for done, _ in of_blocks] == sorted(done for done, _ in of_blocks)
    assert of_blocks[-1] == (size, size)
    assert of_blocks[-2] == (size - 1, size), "the last block ends before the work does"


def test_reading_and_counting_large_texts_is_reported(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((survey, "_REPORT_FROM"), (survey, "_REPORT_EVERY"), (vocabulary, "_REPORT_EVERY")):
        monkeypatch.setattr(module, name, 2000)
    monkeypatch.setattr("archlab.data.compressed._PIECE", 1000)
    reported = reports_of(lambda: prepared.word_tokenizer(source(text), 20))
    size = (text / "a.jsonl").stat().st_size
    reading, counting = reported["reading 0 MB"], reported["counting the words of 0 MB"]
    assert reading[-1] == (size, size)
    assert counting[-1][0] == counting[-1][1]
    for each in (reading, counting):
        assert len(each) > 3
        assert [done for done, _ in each] == sorted(done for done, _ in each)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 99}, f"its tokens are of format 99, and not {FORMAT}$"),
        ({"kind": "model"}, r"holds no prepared tokens: .*\.json is missing or damaged$"),
        ({"vocab_size": 3}, r"\.json is damaged$"),
    ],
)
def test_tokens_of_another_format_are_refused(
    text: Path, tokenizer: HuggingFaceTokenizer, tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    folder = prepared.prepare_at(source(text), None, tokenizer, tmp_path / "mine").folder
    data = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**data, **change}))
    forget()
    with pytest.raises(ArchlabError, match=f"^{folder}: .*{problem}"):
        open_corpus(folder)


def test_checksums_of_another_size_are_damage(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"123")
    files = blocks.checksums(tmp_path, ["a"])
    assert blocks.find_damage(tmp_path, files) == ""
    files["a"]["blocks"] = []
    assert blocks.find_damage(tmp_path, files) == "a has checksums of another size"


def test_tokens_are_kept_in_the_user_s_cache_or_where_a_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ARCHLAB_TOKENS")
    assert cache.tokens_dir().is_relative_to(tmp_path / "cache")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARCHLAB_TOKENS", str(tmp_path / "file/below"))
    with pytest.raises(ArchlabError, match=r"file/below: cannot be created: Not a directory; ARCHLAB_TOKENS names it$"):
        cache.tokens_dir()


def test_corpora_are_in_the_user_s_data_or_where_a_variable_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARCHLAB_CORPORA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert corpora_dir.corpus_place("wiki") == tmp_path / "archlab/corpora/wiki"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ArchlabError, match="no home directory for the corpus 'wiki': set ARCHLAB_CORPORA to a direct"):
        corpora_dir.corpus_place("wiki")
    monkeypatch.setenv("ARCHLAB_CORPORA", str(tmp_path / "mine"))
    assert corpora_dir.corpus_place("wiki") == tmp_path / "mine/wiki"
