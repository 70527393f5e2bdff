"""`archlab watch` of a search, a ladder and a run shows their progress and leaves their directories alone."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Tiny
from ladder_helpers import RUNGS, climb, write_ladder
from ladder_helpers import pretend as pretend_ladder
from search_helpers import pretend, replace_training, search, write_space

import archlab
from archlab import ArchlabError
from archlab.cli.watching import watch_lines
from archlab.searching.ladder import capacity, plan_rungs
from archlab.searching.ladder.config import parse_ladder
from archlab.searching.ladder.progress import first_candidates, ladder_progress
from archlab.searching.ladder.selection import Decision, write_decision
from archlab.searching.ladder.time_left import rung_sizes
from archlab.searching.results.progress import _label, _latest_run
from archlab.searching.space.load_space import load_space
from archlab.searching.study.workers import hold_lease, work_on
from archlab.searching.trials import train_trial
from archlab.searching.watch import open_watch
from archlab.storage.locks import lock


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    def state() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}

    before = state()
    yield
    assert state() == before


def running_trial(folder: Path, number: int) -> None:
    """Have the study say that a trial runs, with a log of ten steps."""
    with sqlite3.connect(folder / "study.db") as database:
        database.execute("UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE number = ?", (number,))
    run = folder / f"trials/{number:04d}"
    (run / "metrics.jsonl").write_text(
        '{"step": 9, "loss": 2.5}\n{"step": 10, "loss": 2.25, "tokens_per_s": 800}\n{"st'
    )
    (run / "experiment.yaml").write_text(
        "model: {}\ntask: {}\nplugins: []\nname: x\ndescription: x\ntrain: {steps: 50, batch_size: 2, context: 16}\n"
    )
    (run / "checkpoints").mkdir(exist_ok=True)
    shutil.rmtree(run / "final", ignore_errors=True)


@pytest.mark.slow
def test_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, pretend())
    folder = tmp_path / "s"
    search(write_space(tmp_path, study={"sampler": "random", "pruner": "none"}), folder, trials=3)
    with unchanged(folder):
        ended = archlab.watch(folder)
    assert (ended.kind, ended.name, ended.state, ended.done, ended.total) == ("search", "s", "complete", 3, 3)
    assert ended.seconds_left is None
    assert [run.label for run in ended.recent] == ["trial 0", "trial 1", "trial 2"]
    assert ended.best[0].values["val_loss"] == min(run.metrics["val_loss"] for run in ended.recent)

    with lock(folder / ".workers.lock", wait=True, shared=True), lock(folder / ".best.lock", wait=True):
        last = archlab.watch(folder)
    assert (last.state, [run.state for run in last.running]) == ("running", ["evaluating"])
    running_trial(folder, 1)
    with hold_lease(folder):  # of another machine, whose locks are not seen here
        work_on(folder, {"trial": 1})
        elsewhere = archlab.watch(folder)
        work_on(folder, {"run": "baseline"})
        (worker,) = archlab.watch(folder).workers
    assert [(w.state, w.work, w.pid) for w in elsewhere.workers] == [("working", "trial 1", os.getpid())]
    assert [(run.label, run.state, run.reason) for run in elsewhere.running] == [("trial 1", "training", "")]
    assert (elsewhere.state, elsewhere.counts["running"]) == ("running", 1)
    assert worker.work == "baseline"
    read = open_watch(folder)
    with unchanged(folder):
        dead = read()
    assert dead.state == "complete"  # as nobody works on it and there is a summary of an earlier time
    assert [(run.label, run.state) for run in dead.running] == [("trial 1", "stopped")]
    assert dead.counts["running"] == 0
    with (
        lock(folder / ".workers.lock", wait=True, shared=True),
        lock(folder / "trials/0001/lock", wait=True),
        lock(folder / "trials/0001/.run.lock", wait=True),
        unchanged(folder),
    ):
        alive = read()
    assert (alive.state, alive.counts["running"], alive.done) == ("running", 1, 2)
    run = alive.running[0]
    assert (run.label, run.state, run.step, run.steps, run.metrics["loss"]) == ("trial 1", "training", 10, 50, 2.25)
    assert run.seconds_left == 40 * 32 / 800
    assert alive.seconds_left == pytest.approx(run.seconds_left)

    (folder / "study.db").unlink()
    with unchanged(folder), pytest.raises(ArchlabError, match=r"study\.db: is missing"):
        archlab.watch(folder)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_search_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, pretend())
    search(write_space(tmp_path, study={"sampler": "random"}), tmp_path / "s", trials=1)
    (tmp_path / "s").chmod(0o500)
    assert archlab.watch(tmp_path / "s").done == 1


def ladder_run(place: Path, tiny: Tiny, *, ended: bool) -> None:
    place.mkdir(parents=True)
    (place / "experiment.yaml").write_text(tiny().to_yaml())
    (place / "run.json").write_text('{"identity": {"run": "1"}}')
    (place / "metrics.jsonl").write_text('{"step": 4, "loss": 2, "tokens_per_s": 64}\n{"step": 4, "val_loss": 2.5}\n')
    if ended:
        (place / "final").mkdir()


def test_a_ladder(tmp_path: Path, tiny: Tiny) -> None:
    ladder, out = parse_ladder(load_space(write_ladder(tmp_path))), tmp_path / "ladder"
    for number, candidate in enumerate(("megalodon", "averages")):
        for seed in range(2):
            ladder_run(out / f"rungs/1/{candidate}/seed_{seed}", tiny, ended=number + seed < 2)
    entrants = first_candidates(ladder)
    assert entrants == ["megalodon", "averages"]
    sizes = rung_sizes(ladder)
    going = out / "rungs/1/averages/seed_1"
    with lock(going / "lock", wait=True), lock(going / ".run.lock", wait=True), unchanged(out):
        first = ladder_progress(ladder, out, entrants, sizes)
    assert (first.kind, first.stage, first.done, first.total) == ("ladder", "rung 1 of 2", 3, 4)
    assert [(run.label, run.state, run.step) for run in first.running] == [("averages seed 1", "training", 4)]
    assert first.best[0].values == {"val_loss": 2.5}
    assert first.seconds_left is not None

    with lock(going / "lock", wait=True):
        claimed = ladder_progress(ladder, out, entrants, sizes)
    assert [(run.label, run.state) for run in claimed.running] == [("averages seed 1", "starting")]
    (going / "result.json").write_text('{"reason": "the loss is nan"}')
    failed = ladder_progress(ladder, out, entrants, sizes)
    assert failed.counts == {"complete": 3, "failed": 1, "running": 0}
    write_decision(out / "rungs/1", Decision(["megalodon"], {}, "loss", {"megalodon": 2.5}))
    second = ladder_progress(ladder, out, entrants, sizes)
    assert (second.stage, second.done, second.total) == ("rung 2 of 2", 0, 1)


def test_a_ladder_that_waits_for_another_machine_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = SimpleNamespace(params_non_embedding=1, flops_per_token=1.0)
    monkeypatch.setattr(plan_rungs, "estimate_cost", lambda experiment: costs)
    monkeypatch.setattr(capacity, "plan", lambda *_, **__: SimpleNamespace(memory_per_device=1, seconds_per_update=0.0))
    file, out = write_ladder(tmp_path, rungs=[{**RUNGS[0], "elsewhere": True}]), tmp_path / "out"
    climb(file, out)
    with unchanged(out):
        waiting = archlab.watch(out)
    assert (waiting.kind, waiting.name, waiting.state, waiting.stage) == ("ladder", "out", "stopped", "rung 1 of 1")
    assert (waiting.done, waiting.total, waiting.seconds_left) == (0, 4, None)
    monkeypatch.setattr(train_trial, "train", pretend_ladder())
    write_ladder(tmp_path, rungs=RUNGS[:1])
    shutil.rmtree(out)
    climb(file, out)
    assert (archlab.watch(out / "rungs").state, archlab.watch(out).done) == ("complete", 4)


@pytest.mark.parametrize(
    ("inner", "tasks", "runs", "label"),
    [
        ([], (), 1, "trial 3"),
        (["runs/0", "runs/1"], (), 3, "trial 3, run 2 of 3"),
        (["tasks/easy/runs/0"], ("easy", "hard"), 1, "trial 3, easy"),
        (
            ["tasks/easy/runs/0", "tasks/hard/runs/0", "tasks/hard/runs/1"],
            ("easy", "hard"),
            2,
            "trial 3, hard, run 2 of 2",
        ),
    ],
)
def test_the_run_that_a_trial_is_at(
    inner: list[str], tasks: tuple[str, ...], runs: int, label: str, tmp_path: Path
) -> None:
    for part in inner:
        (tmp_path / part).mkdir(parents=True)
    space: Any = SimpleNamespace(tasks=dict.fromkeys(tasks), runs_per_trial=runs)
    run = _latest_run(tmp_path, space)
    assert run == tmp_path / (inner[-1] if inner else "")
    assert _label("trial 3", tmp_path, run, space) == label


def test_a_run(tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "experiment.yaml").write_text(tiny().to_yaml())
    (tmp_path / "run.json").write_text('{"identity": {"run": "1"}}')
    assert archlab.watch(tmp_path).running[0].state == "stopped"
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 3, "loss": 2, "tokens_per_s": 64}\n{"step": 3, "val_loss": 2.5}\n'
    )
    (tmp_path / "checkpoints/step_00000002").mkdir(parents=True)
    stopped = archlab.watch(tmp_path)
    assert (stopped.kind, stopped.state) == ("run", "stopped")
    assert stopped.running[0].reason == "no process works on it; saved at step 2"
    with lock(tmp_path / ".run.lock", wait=True), unchanged(tmp_path):
        run = archlab.watch(tmp_path).running[0]
    assert (run.state, run.step, run.steps) == ("training", 3, 12)
    assert run.metrics == {"loss": 2, "tokens_per_s": 64, "val_loss": 2.5}
    assert run.seconds_left is not None
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 12, "loss": 1, "val_loss": 1.5}\n')
    ended = archlab.watch(tmp_path)
    assert (ended.state, ended.running[0].reason) == ("complete", "its model was not kept")


@pytest.mark.parametrize(
    ("experiment", "log", "step", "metrics"),
    [
        ("{", '{"step": 3, "loss": 2}\n', 3, {"loss": 2}),
        ("train: []", '{"step": 3, "loss": 2}\n{"step": 4, "lo\n{"step": 5, "loss": 1}\n', 5, {"loss": 1}),
        (
            "train: {steps: many, batch_size: some, context: 4}",
            '{"step": Infinity, "loss": NaN, "last": true, "tokens_per_s": 5}\n',
            0,
            {"tokens_per_s": 5},
        ),
    ],
)
def test_of_a_damaged_run_what_can_be_read_is_shown(
    experiment: str, log: str, step: int, metrics: dict[str, float], tmp_path: Path
) -> None:
    (tmp_path / "experiment.yaml").write_text(experiment)
    (tmp_path / "run.json").write_text('{"identity": {"run": "1"}}')
    (tmp_path / "metrics.jsonl").write_text(log)
    with lock(tmp_path / ".run.lock", wait=True):
        run = archlab.watch(tmp_path).running[0]
    assert (run.step, run.steps, run.metrics, run.seconds_left) == (step, 0, metrics, None)


def test_a_trial_continues_with_its_search(tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "search.yaml").write_text("{}")
    trial = tmp_path / "trials/0001"
    trial.mkdir(parents=True)
    (trial / "experiment.yaml").write_text(tiny().to_yaml())
    (trial / "run.json").write_text('{"identity": {"run": "1"}}')
    watched = archlab.watch(trial)
    assert (watched.kind, watched.state) == ("trial", "stopped")
    assert "archlab search continues it" in watch_lines(watched, 80)[-1].plain


def test_another_directory(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match="holds no run, search or ladder to watch"):
        archlab.watch(tmp_path)
    with pytest.raises(ArchlabError, match="nowhere: is not a directory to watch"):
        archlab.watch(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
