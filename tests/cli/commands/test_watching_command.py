from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Tiny

from archlab.cli import watching
from archlab.training.progress import Progress, Reached, RunProgress


@pytest.fixture
def stopped(tiny: Tiny, tmp_path: Path) -> Path:
    """A run that was stopped."""
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / "experiment.yaml").write_text(tiny().to_yaml())
    (folder / "run.json").write_text('{"identity": {"run": "1"}}')
    (folder / "metrics.jsonl").write_text('{"step": 3, "loss": 2.0, "tokens_per_s": 64}\n')
    return folder


def test_watch(run, stopped: Path) -> None:
    for options in ([], ["--once"]):  # nobody works on it, so that both end at once
        done = run("watch", str(stopped), *options)
        assert done.status == 0, done.err
        assert "a run  3/12  stopped  loss 2.0000  no process works on it" in done.out
        assert done.out.endswith("no process works on it; continue it with archlab train --resume\n")


def test_watch_as_json(run, stopped: Path) -> None:
    state = json.loads(run("watch", str(stopped), "--once", "--json").out)
    assert (state["kind"], state["state"]) == ("run", "stopped")
    assert state["running"][0]["metrics"] == {"loss": 2.0, "tokens_per_s": 64}
    assert json.loads(run("watch", str(stopped), "--json").out) == state


def test_watch_of_another_directory(run, tmp_path: Path) -> None:
    done = run("watch", str(tmp_path))
    assert done.status == 2
    assert done.err.endswith("holds no run, search or ladder to watch\n")


def test_what_runs_what_has_ended_and_the_pareto_set() -> None:
    progress = Progress(
        "search",
        "s",
        state="stopped",
        total=4,
        counts={"complete": 1, "pruned": 1},
        front=(Reached("trial 0", {"val_loss": 2.5, "params": 12_300}),),
        recent=(
            RunProgress("trial 0", "complete", metrics={"val_loss": 2.5}),
            RunProgress("trial 1", "pruned", reason="pruned at step 9 of 12"),
        ),
    )
    assert [line.plain for line in watching.watch_lines(progress, 80)] == [
        "s  stopped  2 of 4 trials done  1 pruned  0 failed  0 running",
        "trial 1  pruned  pruned at step 9 of 12",
        "trial 0  complete  val 2.5000",
        "Pareto set: trial 0  val_loss 2.5, params 12300",
        "no process works on it; run the same archlab search to continue it",
    ]


def test_a_state_is_read_until_nobody_works_on_it(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.0)
    states = iter([Progress("run", "a"), Progress("run", "a"), Progress("run", "a", "complete")])
    watching.follow(watching.Console(), lambda: next(states), as_json=True)
    assert [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()] == [
        "running",
        "running",
        "complete",
    ]


def test_enough_is_seen_with_a_keyboard_interrupt(capsys) -> None:
    def read() -> Progress:
        raise KeyboardInterrupt

    watching.follow(watching.Console(), read, as_json=True)
    assert capsys.readouterr().out == ""
