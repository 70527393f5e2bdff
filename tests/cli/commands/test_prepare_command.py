"""`archlab prepare` on texts, and what it refuses."""

from pathlib import Path

import pytest
from data_helpers import SENTENCES, write_json_lines, write_tokenizer

from archlab.cli import doctor


@pytest.fixture
def text(tmp_path: Path) -> Path:
    write_json_lines(tmp_path / "text" / "a.jsonl", SENTENCES)
    write_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path / "text"


def test_an_experiments_text_is_prepared_once(run, text: Path, tiny_file: Path) -> None:
    task = f"task={{type: text, path: {text}, tokenizer: tokenizer.json}}"
    first = run("prepare", str(tiny_file), task, "model.vocab_size=400")
    assert first.status == 0
    assert "train" in first.out
    assert "300 documents, split by documents" in " ".join(first.out.split())
    assert "empties it" in first.out
    assert run("prepare", str(tiny_file), task, "model.vocab_size=400", "--check").out == first.out


def test_bytes_need_nothing(run, tiny_file: Path) -> None:
    done = run("prepare", str(tiny_file))
    assert done.status == 0
    assert "nothing to prepare" in done.out


@pytest.mark.parametrize("tokenizer", ["bytes", "tokenizer.json", "words"])
def test_a_text_is_prepared_in_a_directory(run, text: Path, tmp_path: Path, tokenizer: str) -> None:
    size = ["--vocab-size", "9"] if tokenizer == "words" else []
    done = run("prepare", "--corpus", str(text), "--tokenizer", tokenizer, "--out", "mine", *size)
    assert done.status == 0
    assert (tmp_path / "mine" / "prepared.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name an experiment, or a text with --corpus and --tokenizer"),
        (("--corpus", "text"), "--corpus needs --tokenizer: a tokenizer.json, bytes, or words with --vocab-size"),
        (("--corpus", "text", "--tokenizer", "bytes"), "--corpus needs --out"),
        (("--out", "mine"), "--tokenizer and --out are of a text of yours"),
        (("--corpus", "no", "--tokenizer", "bytes", "--out", "mine"), "no: no such file or folder"),
        (("--corpus", "text", "--tokenizer", "no.json", "--out", "mine"), "no.json: no such tokenizer file"),
        (("--corpus", "text", "--tokenizer", "words", "--out", "mine"), "tokenizer 'words' needs vocab_size"),
        (("quickstart", "--corpus", "text", "--tokenizer", "bytes"), "names no prepared corpus; say --out DIRECTORY"),
    ],
)
def test_missing_parts_are_reported_in_a_line(run, text: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run("prepare", *arguments)
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert message in done.err


def test_doctor_shows_where_tokens_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHLAB_TOKENS", str(tmp_path / "tokens"))
    [finding] = doctor._tokens()
    assert finding.value == f"{tmp_path / 'tokens'}: 0 corpora, 0 B"
