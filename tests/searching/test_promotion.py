"""Trials that pause and continue from their checkpoints, as a search runs them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from search_helpers import replace_costs, trials_of, write_space

import archlab
from archlab import ConfigError
from archlab.searching.space.load_space import load_space
from archlab.searching.space.promotion import PromotionConfig
from archlab.searching.study.promotion import is_paused
from archlab.training.metrics import read as read_metrics

TRAIN = {"train.steps": 8, "train.eval_every": 2, "train.log_every": 1, "train.checkpoint_every": 0}
STUDY = {"sampler": "random", "trials": 6, "pruner": {"type": "promotion", "reduction_factor": 2}}


@pytest.mark.parametrize(
    ("options", "steps", "every", "rungs"),
    [
        ({}, 100, 10, (10, 30, 90)),
        ({"first_step": 15}, 100, 10, (20, 50)),
        ({"reduction_factor": 2}, 8, 2, (2, 4)),
        ({"first_step": 100}, 100, 10, ()),
    ],
)
def test_rungs_are_steps_of_evaluations(options: dict[str, int], steps: int, every: int, rungs: Any) -> None:
    assert PromotionConfig.parse(options, "study.pruner").rungs(steps, every) == rungs


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ({"study": {**STUDY, "runs_per_trial": 2}}, "study.runs_per_trial makes several"),
        ({"study": STUDY, "inner": {"train.warmup": [1, 2], "trials": 2}}, "inner makes several or compares them"),
        ({"study": STUDY, "override": {"train.eval_every": 0}}, "has nothing to judge by"),
        ({"study": STUDY, "objectives": {"params": "minimize"}}, "needs a metric like val_loss as the only objective"),
        ({"study": {"pruner": {"type": "promotion", "reduction_factor": 1}}}, "study.pruner.reduction_factor"),
        ({"study": {"pruner": {"type": "promotion", "factor": 3}}}, "unknown knob 'factor'"),
    ],
)
def test_trials_that_cannot_pause_are_refused(tmp_path: Path, space: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_space(write_space(tmp_path, **space))
    assert problem in str(caught.value)


class Stop(archlab.SearchCallback):
    """Interrupts a search after so many results of trials."""

    def __init__(self, after: int) -> None:
        self.left, self.states = after, []

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        self.states.append(state)
        self.left -= label != "baseline"
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_promoted_trial_continues_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_costs(monkeypatch, archlab.show(write_space(tmp_path).parent / "tiny.yaml"))
    file = write_space(tmp_path, override=TRAIN, study=STUDY)
    with pytest.raises(KeyboardInterrupt):
        archlab.search(str(file), out=tmp_path / "s", callbacks=[Stop(after=3)])
    assert any(map(is_paused, trials_of(tmp_path / "s")))
    result = archlab.search(str(file), out=tmp_path / "s")
    trials = trials_of(tmp_path / "s")
    assert sum(result.summary.trials.values()) == len(trials) == 6
    for trial in trials:
        run = tmp_path / "s" / "trials" / f"{trial.number:04d}"
        steps = [record["step"] for record in read_metrics(run) if "val_loss" not in record]
        assert steps == [*range(1, max(trial.intermediate_values) + 1)], "no step is made twice"
        # One in two of those that came to a rung went beyond it, at the least.
        assert trial.state == (TrialState.COMPLETE if max(trial.intermediate_values) == 8 else TrialState.PRUNED)
    for rung in (2, 4):
        there = sorted((t for t in trials if rung in t.intermediate_values), key=lambda t: t.intermediate_values[rung])
        assert all(max(t.intermediate_values) > rung for t in there[: len(there) // 2])
    best = next(trial for trial in trials if trial.number == result.best_trial)
    alone = archlab.train(tmp_path / "s" / "trials" / f"{best.number:04d}" / "experiment.yaml", out=tmp_path / "alone")
    assert alone.metrics["val_loss"] == best.value
