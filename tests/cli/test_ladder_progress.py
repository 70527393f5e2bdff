"""A ladder on the command line: its progress, the tables at its end, and what it refuses."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from ladder_helpers import CANDIDATES, climb, law, pretend, write_ladder
from rich.console import Console
from search_helpers import replace_training, write_space

from archlab import ArchlabError
from archlab.cli import ladder_progress
from archlab.cli.ladder_progress import LadderProgressBar
from archlab.config.experiment import Experiment
from archlab.errors import TrainingError
from archlab.searching.ladder import run as ladder_run
from archlab.training.progress import Progress, RunProgress


def plain() -> Console:
    return Console(file=io.StringIO(), width=100)


def text_of(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def start(console: Console, file: Path, out: Path, *, rehearse: bool = False) -> None:
    """Run a ladder as the command does, in this process."""
    ladder_progress.climb(console, str(file), (), out=out, rehearse=rehearse, force=False, workers=None)


@pytest.mark.slow
def test_rungs_the_target_and_who_dropped_out_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(experiment: Experiment, params: float) -> float:
        if experiment.name.startswith("broken"):
            raise TrainingError("step 3: the loss is nan")
        return law(experiment, params)

    replace_training(monkeypatch, pretend(loss))
    to = {"experiment": "tiny.yaml", "tokens": 6400}
    candidates = {**CANDIDATES, "broken": {"train.lr": 0.5}}
    console, out = plain(), tmp_path / "a ladder"
    start(console, write_ladder(tmp_path, candidates=candidates, to=to), out)
    lines = [line.rstrip() for line in text_of(console).splitlines()]
    assert lines[0] == "space: 2 rungs, 3 candidates: megalodon, averages, broken"
    assert any(line.startswith("rung 1 of 2  1 of 6 runs done") for line in lines)
    at = lines.index("rung 1: 2.36 K parameters without embeddings, 320 tokens")
    assert [line.split() for line in lines[at + 1 : at + 5]] == [
        ["candidate", "loss", "on"],
        ["megalodon", "6.4398", "yes"],
        ["averages", "7.5035", "yes"],
        ["broken"],
    ]
    assert "broken dropped out: rung 1: step 3: the loss is nan" in lines
    assert lines[-1] == f"launch  archlab train '{out / 'launch/megalodon.yaml'}'"
    assert f"report  {out / 'report.html'}" in lines


@pytest.mark.slow
def test_a_rung_that_is_trained_elsewhere_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, pretend())
    monkeypatch.setattr(ladder_run, "refusal", lambda plan: "rung 2 is too large" * (plan.rung.number == 2))
    console, out = plain(), tmp_path / "out"
    with pytest.raises(ArchlabError) as refused:
        start(console, write_ladder(tmp_path), out)
    assert str(refused.value) == f"rung 2 is too large; train {out / 'launch'} elsewhere, and run this command again"
    assert "rung 1" in text_of(console)
    assert (out / "report.html").is_file()
    assert climb(tmp_path / "space.yaml", out).waiting


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "option", "problem"),
    [
        ({}, ("--rehearse",), "has no rungs to rehearse"),
        ({"rungs": 2}, ("--trials", "3"), "names its candidates and draws none, so that --trials says nothing"),
    ],
)
def test_options_that_say_nothing_are_refused(
    run, space: dict[str, int], option: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    file = write_ladder(tmp_path) if space else write_space(tmp_path)
    done = run("search", file.name, *option)
    assert (done.status, done.err) == (2, f"archlab: {file.name}: {problem}\n")


def test_a_rehearsal_says_that_it_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, pretend())
    console = plain()
    start(console, write_ladder(tmp_path), tmp_path / "out", rehearse=True)
    assert "REHEARSAL: the models are small, and their losses say nothing about any candidate" in text_of(console)


def test_the_progress_of_workers_elsewhere_is_a_line_where_it_has_moved() -> None:
    console = plain()
    running = (RunProgress("rung 1: averages seed 0", "training", 3, 12, {"loss": 3.0}),)
    with LadderProgressBar(console) as bar:
        for done in (1, 1, 2):
            state = Progress("ladder", "l", stage="rung 1 of 2", total=4, counts={"complete": done}, running=running)
            bar.on_wait(state)
            assert bar._with_own_runs() is state
    assert [line.split("  ")[:2] for line in text_of(console).splitlines()] == [
        ["rung 1 of 2", f"{done} of 4 runs done"] for done in (1, 2)
    ]
