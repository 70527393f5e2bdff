"""Trials that fail, break a constraint or are interrupted, and what is recorded of them."""

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from search_helpers import pretend, replace_costs, replace_training, search, trials_of, write_space

from archlab import ArchlabError, TrainingError
from archlab.config.experiment import Experiment
from archlab.searching.failures import exits_fail, failure_reason
from archlab.searching.results.summary import BaselineSummary
from archlab.searching.study.study import is_interrupted
from archlab.training.trainer import TrainResult

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


@pytest.mark.slow
def test_a_baseline_that_breaks_stops_the_search(tmp_path: Path, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_costs(monkeypatch)

    def loss(experiment: Experiment) -> float:
        raise RuntimeError("a mistake of the base experiment")

    fake(loss=loss)
    with pytest.raises(RuntimeError, match="a mistake of the base"):
        search(write_space(tmp_path, study=NO_PRUNING), tmp_path / "s", trials=1)
    assert trials_of(tmp_path / "s") == []


@pytest.mark.slow
def test_an_objective_that_was_not_measured_fails_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = pretend()

    def without_speed(experiment: Experiment, folder: Path, **options: Any) -> TrainResult:
        result = train(experiment, folder, **options)
        log = folder / "metrics.jsonl"
        log.write_text(log.read_text().replace('"tokens_per_s": 100.0', '"lr": 0.1'))
        return TrainResult(folder, {"val_loss": result.metrics["val_loss"]})

    replace_training(monkeypatch, without_speed)
    replace_costs(monkeypatch)
    objectives = {"val_loss": "minimize", "tokens_per_s": "maximize"}
    outcome = search(write_space(tmp_path, objectives=objectives), tmp_path / "s", trials=1)
    assert outcome.best_trial is None
    (trial,) = trials_of(tmp_path / "s")
    assert (trial.state.name, trial.user_attrs["reason"]) == ("FAIL", "tokens_per_s was not measured")


def test_an_exit_of_a_component_is_a_failure() -> None:
    with pytest.raises(TrainingError, match=r"^sys\.exit\(3\) was called$"), exits_fail():
        sys.exit(3)
    with exits_fail():
        pass


def test_reasons_are_one_line() -> None:
    assert failure_reason(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nmore")).startswith(
        "out of mem"
    )
    assert failure_reason(ValueError("")) == "ValueError"
    assert optuna.__version__ >= "5"
