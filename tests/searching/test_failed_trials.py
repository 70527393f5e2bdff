"""Trials that fail, break a constraint or are interrupted, and what is recorded of them."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from search_helpers import search, trials_of, write_space

from archlab import ArchlabError, TrainingError
from archlab.config.experiment import Experiment
from archlab.searching.failures import failure_reason
from archlab.searching.results.summary import BaselineSummary
from archlab.searching.study.study import is_interrupted

EMA = "model.layers[*].mixer.ema"
NO_PRUNING = {"pruner": "none"}


@pytest.mark.slow
def test_failures_are_recorded_and_the_search_continues(tmp_path: Path, fake: Any) -> None:
    errors = iter([TrainingError("step 3: the loss is nan"), MemoryError("no room"), RuntimeError("a\nb"), None, None])

    def loss(experiment: Experiment) -> float:
        if (experiment.train.lr != 0.01) and (error := next(errors)) is not None:
            raise error
        return 1.0

    fake(loss=loss)
    outcome = search(write_space(tmp_path, study=NO_PRUNING), tmp_path / "s", trials=5)
    trials = trials_of(tmp_path / "s")
    assert [trial.state.name for trial in trials] == ["FAIL"] * 3 + ["COMPLETE"] * 2
    reasons = [trial.user_attrs["reason"] for trial in trials]
    assert reasons == ["step 3: the loss is nan", "out of memory: no room", "RuntimeError: a", "", ""]
    assert outcome.best_trial == 3
    assert outcome.summary.trials == {"fail": 3, "complete": 2}


@pytest.mark.slow
def test_a_combination_that_cannot_be_built_is_a_failed_trial(tmp_path: Path, fake: Any) -> None:
    file = write_space(tmp_path, vary={"model.layers[*].mixer.num_heads": [1, 3]}, study={"sampler": "brute_force"})
    search(file, tmp_path / "s", trials=2)
    states = {t.user_attrs["values"]["model.layers[*].mixer.num_heads"]: t for t in trials_of(tmp_path / "s")}
    assert states[1].state == TrialState.COMPLETE
    assert states[3].state == TrialState.FAIL
    assert "num_heads 3" in states[3].user_attrs["reason"]


@pytest.mark.slow
def test_a_nan_that_training_lets_through_is_a_failure(tmp_path: Path, fake: Any) -> None:
    fake(loss=lambda experiment: 1.0 if experiment.train.lr == 0.01 else float("nan"))
    outcome = search(write_space(tmp_path, study=NO_PRUNING), tmp_path / "s", trials=1)
    assert outcome.best_trial is None
    assert trials_of(tmp_path / "s")[0].user_attrs["reason"].endswith("val_loss is nan and not a finite number")
    assert outcome.summary.best_trial is None


@pytest.mark.slow
def test_a_trial_that_violates_a_constraint_never_trains_and_the_sampler_knows(tmp_path: Path, fake: Any) -> None:
    widths = [{"type": "swiglu", "hidden_dim": 16}, {"type": "swiglu", "hidden_dim": 4096}]
    file = write_space(
        tmp_path,
        vary={"model.layers[*].ffn": widths},
        constraints=["params <= 5e4", {"at": "tiny.yaml", "require": "memory_per_device <= 1e15"}],
        study={"sampler": "brute_force"},
    )
    outcome = search(file, tmp_path / "s", trials=2)
    by_width = {t.user_attrs["values"]["model.layers[*].ffn"]["hidden_dim"]: t for t in trials_of(tmp_path / "s")}
    infeasible, feasible = by_width[4096], by_width[16]
    assert infeasible.state == TrialState.PRUNED
    assert infeasible.user_attrs["reason"].startswith("params <= 5e4 is violated: params is ")
    assert infeasible.constraints["params <= 5e4"] > 0
    assert feasible.constraints == {k: v for k, v in feasible.constraints.items() if v <= 0}
    assert len(feasible.constraints) == 2
    assert not (tmp_path / "s" / "trials" / f"{infeasible.number:04d}" / "metrics.jsonl").exists()
    assert outcome.best_trial == feasible.number


@pytest.mark.slow
def test_ctrl_c_stops_the_search_and_the_trial_is_retried(tmp_path: Path, fake: Any) -> None:
    calls = []

    def loss(experiment: Experiment) -> float:
        calls.append(experiment.train.lr)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 1.0

    fake(loss=loss)
    file = write_space(tmp_path, study=NO_PRUNING)
    with pytest.raises(KeyboardInterrupt):
        search(file, tmp_path / "s", trials=3)
    search(file, tmp_path / "s", trials=3)
    trials = trials_of(tmp_path / "s")
    assert [is_interrupted(trial) for trial in trials] == [False, True, False, False]
    assert calls[2] == calls[3] == trials[2].params["train.lr"]
    assert trials[2].user_attrs["retry_of"] == 1


@pytest.mark.slow
def test_a_failing_baseline_does_not_stop_the_search_but_a_mistake_does(tmp_path: Path, fake: Any) -> None:
    def loss(experiment: Experiment) -> float:
        if experiment.train.lr == 0.01:
            raise TrainingError("the loss is nan")
        return 1.0

    fake(loss=loss)
    outcome = search(write_space(tmp_path), tmp_path / "s", trials=1)
    assert outcome.summary.baseline == BaselineSummary(reason="the loss is nan")
    file = write_space(tmp_path, override={"task.path": str(tmp_path / "nowhere")})
    with pytest.raises(ArchlabError, match="nowhere"):
        search(file, tmp_path / "t", trials=1)


def test_reasons_are_one_line() -> None:
    assert failure_reason(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nmore")).startswith(
        "out of mem"
    )
    assert failure_reason(ValueError("")) == "ValueError"
    assert optuna.__version__ >= "5"
