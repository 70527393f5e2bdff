"""How far trials have come that have several runs or objectives, or have only begun."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import create_trial
from search_helpers import write_space

from archlab.searching.results import progress as module
from archlab.searching.results.progress import search_progress
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space
from archlab.storage.locks import lock
from archlab.training.progress import Progress, RunProgress

LATER_S = 100.0
EXPERIMENT = """\
name: x
description: x
plugins: []
model: {}
task: {}
train: {steps: 12, batch_size: 2, context: 16}
"""


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def space_of(folder: Path, **keys: Any) -> Space:
    return load_space(write_space(folder, **keys))


def begin(run: Path, step: int) -> None:
    """Write what a run leaves that has trained so many of its twelve steps."""
    run.mkdir(parents=True)
    (run / "experiment.yaml").write_text(EXPERIMENT)
    (run / "run.json").write_text('{"identity": {"run": "1"}}')
    (run / "metrics.jsonl").write_text(f'{{"step": {step}, "loss": 2, "tokens_per_s": 64}}\n')


def seen(space: Space, folder: Path, study: optuna.Study, *locks: Path) -> Progress:
    with ExitStack() as held:
        for file in locks:
            held.enter_context(lock(file, wait=True))
        return search_progress(study, space, folder, 4)


def label_of(progress: Progress) -> list[tuple[str, str, int]]:
    return [(run.label, run.state, run.step) for run in progress.running]


def test_the_best_of_each_objective_and_the_front_are_shown(tmp_path: Path) -> None:
    space = space_of(tmp_path, objectives={"val_loss": "minimize", "params": "maximize"})
    study = optuna.create_study(directions=["minimize", "maximize"])
    for values in ((3.0, 4.0), (1.0, 2.0), (2.0, 3.0), (3.0, 1.0)):
        study.add_trial(create_trial(values=values))
    progress = search_progress(study, space, tmp_path / "s", 6)
    assert [(best.label, dict(best.values)) for best in progress.best] == [
        ("trial 1", {"val_loss": 1.0}),
        ("trial 0", {"params": 4.0}),
    ]
    assert [(one.label, one.values["val_loss"]) for one in progress.front] == [
        ("trial 0", 3.0),
        ("trial 1", 1.0),
        ("trial 2", 2.0),
    ]
    one = optuna.create_study()
    one.add_trial(create_trial(value=1.0))
    assert search_progress(one, space_of(tmp_path), tmp_path / "s", 6).front == ()


def test_the_baseline_is_shown_while_it_trains(tmp_path: Path) -> None:
    space, study, place = space_of(tmp_path, study={"runs_per_trial": 3}), optuna.create_study(), tmp_path / "baseline"
    assert label_of(seen(space, tmp_path, study)) == []
    assert label_of(seen(space, tmp_path, study, place / "lock")) == [("baseline", "stopped", 0)]
    begin(place / "runs/1", 6)
    running = seen(space, tmp_path, study, place / "lock", place / "runs/1/.run.lock")
    assert label_of(running) == [("baseline, run 2 of 3", "training", 6)]
    assert running.counts["running"] == 0  # of trials


def test_a_trial_between_two_runs_is_starting(tmp_path: Path) -> None:
    space, study, place = (
        space_of(tmp_path, study={"runs_per_trial": 3}),
        optuna.create_study(),
        tmp_path / "trials/0000",
    )
    study.ask()
    (gone,) = seen(space, tmp_path, study).running
    assert (gone.state, gone.reason) == ("stopped", "its process is gone; the next worker continues with it")
    assert label_of(seen(space, tmp_path, study, place / "lock")) == [("trial 0", "starting", 0)]
    begin(place / "runs/0", 12)
    assert label_of(seen(space, tmp_path, study, place / "lock")) == [("trial 0, run 1 of 3", "starting", 12)]


def test_the_time_left_is_that_of_all_runs_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, study, place = (
        space_of(tmp_path, study={"runs_per_trial": 4}),
        optuna.create_study(),
        tmp_path / "trials/0000",
    )
    trial = study.ask()
    start = study.trials[trial.number].datetime_start
    assert start is not None
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: start.timestamp() + LATER_S))
    run: Any = RunProgress("trial 0", "starting")
    assert module._times(study.trials[0], run, tmp_path, space) == (LATER_S, None)
    begin(place / "runs/0", 12)
    (place / "runs/0/result.json").write_text("{}")
    begin(place / "runs/1", 6)
    progress = seen(space, tmp_path, study, place / "lock", place / "runs/1/.run.lock")
    assert label_of(progress) == [("trial 0, run 2 of 4", "training", 6)]
    _, left = module._times(study.trials[0], progress.running[0], tmp_path, space)
    assert left == pytest.approx(LATER_S * (4 - 1.5) / 1.5)
    assert progress.seconds_left == pytest.approx(left + 3 * (LATER_S + left))  # three more trials like this one
