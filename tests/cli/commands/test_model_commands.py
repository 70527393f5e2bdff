from __future__ import annotations

import json
from pathlib import Path

import pytest

from archlab.cli.streams import decode_argument


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--prompt", "a\udcffb"], "the prompt is not UTF-8: 'a\\udcffb'"),
        (["--prompt", "x", "--seed", "12345678901234567890123"], "seed 12345678901234567890123 is not between"),
        (["--prompt", "x", "--temperature", "nan"], "temperature nan is not a number at least 0"),
    ],
)
def test_generate_with_what_cannot_be(more: list[str], message: str, run, trained: Path) -> None:
    done = run("generate", str(trained), *more)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert message in done.err


def test_a_prompt_of_another_locale_is_read_as_utf8() -> None:
    assert decode_argument("caf\udcc3\udca9") == "café"  # as Python reads it where the locale is ASCII


def test_eval(run, trained: Path) -> None:
    done = run("eval", str(trained))
    assert done.status == 0
    assert done.out.startswith("test: ")
    assert "255 targets" in done.out
    figures = json.loads(run("eval", str(trained), "--json", "--split", "validation", "--tokens", "64").out)
    assert (figures["split"], figures["tokens"]) == ("validation", 64)
    assert figures["bpb"] > 0


def test_eval_by_a_suite(run, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    done = run("eval", str(trained), "--suite", "context", "--out", str(out))
    assert done.status == 0, done.err
    assert "Loss by context length" in done.out
    assert done.out.endswith(f"page     {out}/index.html\n")
    assert all(len(line) <= 80 for line in done.out.splitlines()[:-1])
    assert {file.suffix for file in out.iterdir()} == {".html", ".csv", ".json"}
    again = run("eval", str(trained), "--suite", "context", "--out", str(out))
    assert (again.status, "overwrite it with --force" in again.err) == (2, True)
    unknown = run("eval", str(trained), "--suite", "contxt")
    assert (unknown.status, "did you mean 'context'?" in unknown.err) == (2, True)
    alone = run("eval", str(trained), "--out", str(out))
    assert (alone.status, "--out is of a --suite" in alone.err) == (2, True)


@pytest.mark.slow
def test_generate(run, trained: Path) -> None:
    done = run("generate", str(trained), "--prompt", "3 times", "--tokens", "20")
    assert done.status == 0
    assert done.out.startswith("3 times")
    assert run("generate", str(trained), "--prompt", "3 times", "--tokens", "20").out == done.out
    assert run("generate", str(trained), "--prompt", "3 times", "--tokens", "20", "--seed", "1").out != done.out
    assert run("generate", str(trained), "--prompt", "3 times", "--tokens", "0").out == "3 times\n"


def test_generate_beyond_what_full_attention_keeps(run, trained: Path) -> None:
    done = run("generate", str(trained), "--prompt", "x", "--tokens", "100000")
    assert done.status == 2
    assert "ask for fewer with --tokens" in done.err


def test_import_names_what_it_cannot_read(run, tmp_path: Path) -> None:
    done = run("import", str(tmp_path), "--out", str(tmp_path / "out"))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "holds no config.json: give the directory of a transformers checkpoint" in done.err
