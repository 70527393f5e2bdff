"""Models side by side: runs, experiments and what suites found of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from search_helpers import search, write_space

import archlab
from archlab import ArchlabError, Curve, Estimate, SuiteResult
from archlab.reporting.compared_model import _labels
from archlab.reporting.evaluation import write_evaluation
from archlab.reporting.format import axis_title
from archlab.reporting.kept_evaluations import read_evaluations


def found(loss: float) -> SuiteResult:
    points = [(64.0, Estimate(loss, loss - 0.25, loss + 0.25, 8, 512)), (128.0, Estimate(loss - 1, None, None, 1, 512))]
    curve = Curve("context", "Loss by context", "context, tokens", "loss, nats per token", "windows", points, log=True)
    return SuiteResult("context", {"targets": 512}, 1024, (curve,), {"accuracy": Estimate(0.5, 0.25, 0.75, 4, 4)})


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> list[Path]:
    """Two copies of a run, of which a suite has found different losses."""
    copies = [tmp_path / "first", tmp_path / "second"]
    for copy, loss in zip(copies, (2.5, 3.5), strict=True):
        shutil.copytree(trained, copy)
        write_evaluation(copy / "evaluations/context", found(loss), copy.name, force=False)
    return copies


@pytest.mark.slow
def test_runs_and_an_experiment(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = archlab.compare(*runs, "llama2_tiny", out=out)
    assert [model.name for model in result.models] == ["first", "second", "llama2_tiny"]
    first, _, declared = result.models
    assert first.metrics["val_loss"] == pytest.approx(first.curve[-1][1])
    assert first.curve[-1][0] == first.tokens > 0
    assert (declared.tokens, declared.curve, declared.evaluations) == (0, (), {})
    assert declared.costs == archlab.show("llama2_tiny").to_dict()
    assert first.evaluations["context"] == found(2.5)  # read back as it was written
    page = (out / "index.html").read_text()
    for part in ("first and second and llama2_tiny", "Loss by context", "2.5000 (2.2500 to 2.7500)", "one run"):
        assert part in page
    data = json.loads((out / "comparison.json").read_text())
    assert data["models"][1]["evaluations"]["context"]["curves"][0]["points"][0][1]["value"] == 3.5
    with pytest.raises(ArchlabError, match="overwrite it with --force"):
        archlab.compare(*runs, out=out)


@pytest.mark.slow
def test_the_best_trial_of_a_search_has_what_its_run_measured(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    search(write_space(tmp_path), folder, trials=1)
    shutil.copytree(folder / "best", tmp_path / "moved")
    searched, best, trial, moved, _ = archlab.compare(
        folder, folder / "best", folder / "trials/0000", tmp_path / "moved", folder / "baseline"
    ).models
    assert searched.curve == best.curve == trial.curve
    assert best.metrics == trial.metrics
    assert best.tokens == moved.tokens == trial.tokens > 0
    assert moved.metrics["val_loss"] == pytest.approx(trial.metrics["val_loss"])
    assert moved.data == trial.data != {}


def test_why_losses_do_not_compare(runs: list[Path]) -> None:
    file = runs[1] / "final/provenance.json"
    provenance = json.loads(file.read_text())
    provenance["data"]["sha256"] = "0" * 64
    file.write_text(json.dumps(provenance))
    notes = archlab.compare(*runs).notes
    assert "They were trained on different data: their losses do not compare." in notes
    assert archlab.compare("llama2_tiny", "mamba2_tiny").notes == ()


def test_on_a_terminal_of_80_columns(run, runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archlab.cli.terminal.WIDTH_WHERE_NO_TERMINAL", 80)
    done = run("compare", *map(str, runs))
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= 80
    for part in ("tokens trained on", "no differences", "accuracy", "0.5000 (0.250 to 0.750)", "one run"):
        assert part in done.out
    assert json.loads(run("compare", *map(str, runs), "--json").out)["models"][0]["name"] == "first"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["llama2_tiny"], "llama2_tiny: is one model; name another to compare it with"),
        (["llama2_tiny", "llama2_tiny"], "llama2_tiny: is named twice"),
        (["llama2_tiny", "lama2_tiny"], "no experiment 'lama2_tiny'; did you mean 'llama2_tiny'?"),
    ],
)
def test_what_cannot_be_compared(names: list[str], message: str, run) -> None:
    done = run("compare", *names)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert message in done.err


def test_a_damaged_evaluation_is_named(run, runs: list[Path]) -> None:
    file = runs[0] / "evaluations/context/result.json"
    file.write_text(file.read_text().replace('"value": 2.5', '"value": "low"'))
    done = run("compare", *map(str, runs))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert f"{file}: value is not of its type" in done.err


def test_names_are_short_and_distinguish_models(tmp_path: Path) -> None:
    folders = [tmp_path / "rungs/4/llama/seed_0", tmp_path / "rungs/3/rwkv7/seed_0"]
    for folder in folders:
        folder.mkdir(parents=True)
    assert _labels([*map(str, folders)]) == ["4/llama", "3/rwkv7"]
    assert _labels(["mine/a.yaml", "llama2_tiny"]) == ["a", "llama2_tiny"]


def test_every_cost_has_a_name_with_its_unit() -> None:
    assert [each.name for each in fields(archlab.Cost) if axis_title(each.name) == each.name] == []


@pytest.mark.slow
def test_why_losses_of_published_models_do_not_compare(trained: Path, tmp_path: Path) -> None:
    places = [shutil.copytree(trained / "final", tmp_path / name) for name in ("one", "two")]
    assert archlab.compare(*places).notes == (archlab.compare(*places).notes[-1],)
    tree = yaml.safe_load((places[1] / "experiment.yaml").read_text())
    tree["model"]["vocab_size"], tree["train"]["eval_tokens"] = 300, 64
    (places[1] / "experiment.yaml").write_text(yaml.safe_dump(tree))
    provenance = json.loads((places[1] / "provenance.json").read_text())
    (places[1] / "provenance.json").write_text(json.dumps({**provenance, "step": provenance["step"] + 1}))
    assert archlab.compare(*places).notes[:-1] == (
        "Their vocabularies differ: losses a token do not compare, bits per byte do.",
        "They were trained on different numbers of tokens: read their curves at equal tokens.",
        "Their validation losses are of different parts of the validation split.",
    )


def test_a_directory_of_something_else_is_named(run, tmp_path: Path) -> None:
    done = run("compare", str(tmp_path), "llama2_tiny")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert f"{tmp_path}: holds neither a run nor another model of archlab's" in done.err


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"curves": None}, "is not the result of a suite: 'NoneType' object is not iterable"),
        ({"notes": ...}, "is not the result of a suite: it has no 'notes'"),
        ({"figures": {"a": {"valu": 1}}}, "is not the result of a suite: "),
        ({"curves": [{"points": [["x", {}]]}]}, "is not the result of a suite: could not convert string to float: 'x'"),
    ],
)
def test_a_result_that_is_none_is_named(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    write_evaluation(tmp_path / "evaluations/context", found(2.5), "a", force=False)
    file = tmp_path / "evaluations/context/result.json"
    data = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({name: value for name, value in data.items() if value is not ...}))
    with pytest.raises(ArchlabError) as caught:
        read_evaluations(tmp_path)
    assert str(caught.value).startswith(f"{file}: {problem}")
