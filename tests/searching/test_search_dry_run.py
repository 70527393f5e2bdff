"""What a search is said to take before it starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from search_helpers import TRAIN, replace_costs, write_space

from archlab.config.experiment import Experiment
from archlab.errors import ConfigError
from archlab.searching.ladder.sizes import size_of
from archlab.searching.results import dry_run as module
from archlab.searching.results.dry_run import DryRun, dry_run
from archlab.searching.space.load_space import load_space

EMA, HIDDEN = "model.layers[*].mixer.ema", "model.layers[*].ffn.hidden_dim"
LR = {"low": 0.001, "high": 0.1, "log": True}
TOKENS = 4 * 2 * 16  # steps, sequences and context of a run
EVALUATED = 2 * 64  # after every second of its steps
SPEED = 10.0
CHECKPOINTS = 2  # that a run keeps


@pytest.fixture(autouse=True)
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """Plan every experiment alike, but for its parameters; return those that are planned."""
    found: list[Experiment] = []

    def plan(experiment: Experiment, **_: Any) -> SimpleNamespace:
        found.append(experiment)
        params = size_of(experiment)
        flops = {"flops_per_token": 3.0, "flops_per_token_forward": 1.0}
        return SimpleNamespace(params=params, checkpoint_bytes=12 * params, tokens_per_s=SPEED, **flops)

    monkeypatch.setattr(module, "plan", plan)
    return found


def estimate(folder: Path, trials: int | None = None, devices: int = 1, **space: Any) -> DryRun:
    return dry_run(load_space(write_space(folder, **space)), trials, devices=devices)


def test_every_trial_is_a_run_beside_the_baseline(tmp_path: Path, planned: list[Experiment]) -> None:
    found = estimate(tmp_path, 5, devices=4, vary={EMA: ["cema", "none"], "train.lr": LR})
    assert (found.trials, found.runs, found.tokens) == (5, 6, 6 * TOKENS)
    seconds = (TOKENS + EVALUATED / 3) / SPEED
    assert found.hours * 3600 == pytest.approx(6 * seconds) == pytest.approx(found.slowest_hours * 3600)
    assert found.device_hours == pytest.approx(4 * found.hours)
    assert (found.sampled, found.infeasible, found.rounds) == (9, 0, [])  # the base, both choices, and six draws
    emas = [experiment.resolved["model"]["layers"][0]["mixer"]["ema"]["type"] for experiment in planned]
    assert emas[:3] == ["cema", "cema", "none"]
    assert {experiment.train.lr for experiment in planned[:3]} == {TRAIN["lr"]}
    assert all(0.001 <= experiment.train.lr <= 0.1 for experiment in planned)
    assert len({experiment.train.lr for experiment in planned[3:]}) == 6
    largest = max(map(size_of, planned))
    # One kept trial, best/ and the baseline, each with its checkpoints; and the logs of six runs.
    assert found.gigabytes * 1e9 == pytest.approx(3 * (4 + 12 * CHECKPOINTS) * largest + 6 * 50_000)
    assert found == estimate(tmp_path, 5, devices=4, vary={EMA: ["cema", "none"], "train.lr": LR})


def test_tuning_seeds_and_tasks_are_more_runs(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "inner": {"train.lr": LR, "trials": 2},
        "study": {"runs_per_trial": 3, "trials": 4},
        "tasks": {"short": {"train.steps": 4}, "long": {"train.steps": 12}},
    }
    found = estimate(tmp_path, vary={EMA: ["cema", "none"]}, **keys)
    each = 2 + 3 - 1  # two settings, the better one with two more seeds
    assert found.trials == 4
    assert found.runs == 2 * (3 + 4 * each)
    assert found.tokens == (1 + 3) * TOKENS * (3 + 4 * each)
    assert found.hours * 3600 == pytest.approx((3 + 4 * each) * ((1 + 3) * (TOKENS + EVALUATED / 3)) / SPEED)


def test_a_comparison_has_rounds(tmp_path: Path) -> None:
    choices = ["cema", "ema", "s4d", "none"]
    found = estimate(tmp_path, 11, vary={EMA: choices, "train.lr": LR}, compare=EMA)
    assert found.rounds == [(4, 1), (2, 3)]
    assert (found.trials, found.runs) == (10, 11)  # an eleventh trial cannot be divided
    with pytest.raises(ConfigError, match=r"study.trials: 3 are too few to compare 4 choices"):
        estimate(tmp_path, 3, vary={EMA: choices}, compare=EMA)


@pytest.mark.parametrize(("asked", "trials"), [(20, 6), (4, 4)])
def test_brute_force_ends_with_the_last_combination(tmp_path: Path, asked: int, trials: int) -> None:
    vary = {EMA: ["cema", "none"], "train.warmup": {"low": 0, "high": 2}}
    found = estimate(tmp_path, asked, vary=vary, study={"sampler": "brute_force"})
    assert (found.trials, found.runs) == (trials, trials + 1)


def test_a_range_is_sampled_at_its_steps(tmp_path: Path, planned: list[Experiment]) -> None:
    vary = {
        "train.weight_decay": {"low": 0.0, "high": 0.5, "step": 0.25},
        "train.warmup": {"low": 1, "high": 4, "log": True},
    }
    estimate(tmp_path, 1, vary=vary)
    assert {experiment.train.weight_decay for experiment in planned[1:]} == {0.0, 0.25, 0.5}
    assert {experiment.train.warmup for experiment in planned[1:]} <= {1, 2, 3, 4}


def test_what_cannot_be_trained_is_counted_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_costs(monkeypatch)  # of which every model has one parameter
    found = estimate(tmp_path, 3, vary={EMA: ["cema", "none"]}, constraints=["params >= 2"])
    assert (found.sampled, found.infeasible) == (1, 8)
    assert found.problems == ["constraints: params >= 2 is violated: params is 1"]


def test_a_cost_that_is_held_is_held_in_the_sample(tmp_path: Path, planned: list[Experiment]) -> None:
    hold = {"params": 2.5e4, "by": "model.dim", "tolerance": 0.1}
    found = estimate(tmp_path, 3, vary={HIDDEN: [16, 32, 65536]}, hold=hold)
    assert found.infeasible > 0
    assert {problem.partition(" gives")[0] for problem in found.problems} == {"hold: no model.dim"}
    assert len({experiment.resolved["model"]["dim"] for experiment in planned}) > 1
