from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from search_helpers import replace_costs, search, write_space

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


@pytest.mark.slow
def test_report_and_migrate(run, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "a")
    done = run("report", "a")
    assert (done.status, done.out) == (0, "a/report.html\n")
    assert (tmp_path / "a/report.html").is_file()
    assert run("report", "a/final").out == f"{tmp_path}/a/report.html\n"
    done = run("migrate", "a")
    assert (done.status, done.out) == (0, "a: nothing to do\n")


@pytest.mark.slow
def test_a_suite_as_json(run, trained: Path, tmp_path: Path) -> None:
    done = run("eval", str(trained), "--suite", "context", "--out", "found", "--json")
    assert json.loads(done.out) | {"model": "run"} == json.loads((tmp_path / "found/result.json").read_text())


@pytest.mark.parametrize(
    "given", [("--trial", "0", "--top", "1"), ("--pareto", "--trial", "0"), ("--top", "2", "--pareto")]
)
def test_trials_are_chosen_in_one_way(run, given: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    done = run("export", "s", "--out", "out", *given)
    message = "archlab: --trial, --top and --pareto choose trials in different ways; give one of them\n"
    assert (done.status, done.err) == (2, message)


@pytest.mark.slow
@pytest.mark.usefixtures("unproved")
def test_trials_of_a_search_are_exported(
    run, fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    replace_costs(monkeypatch)
    study = {"trials": 2, "sampler": "random", "keep": {"best": 2}, "pruner": "none"}
    found = search(write_space(tmp_path, study=study), tmp_path / "s")
    done = run("export", "s", "--out", "two", "--to", "standalone", "--top", "2")
    assert done.status == 0, done.err
    best = found.summary.best_trial
    assert best is not None
    assert done.out.startswith(f"s/trials/{best.trial:04d}: to two/trial_{best.trial:04d}\n")
    assert done.out.endswith("two: trial_0000, trial_0001\n")
    assert run("export", "s", "--out", "one", "--to", "standalone", "--trial", "1").status == 0
    assert {file.name for file in (tmp_path / "one").iterdir()} == {
        file.name for file in (tmp_path / "two/trial_0001").iterdir()
    }
    none = run("export", "s", "--out", "none", "--to", "standalone", "--trial", "7")
    assert (none.status, none.err) == (2, "archlab: s: has no trial 7; it has 0 to 1\n")
    assert not (tmp_path / "none").exists()
