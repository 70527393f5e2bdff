from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny

from archlab import ArchlabError, ConfigError
from archlab.config.experiment import load
from archlab.modeling.budget import resolve_budget
from archlab.modeling.cost import estimate_cost
from archlab.storage.run_identity import read_run_identity
from archlab.training import budget as budgets
from archlab.training.trainer import train

QUICK = ("train.eval_every=0", "train.checkpoint_every=0", "train.warmup=1")


def test_a_budget_of_flops_is_steps_of_the_counted_model(tiny: Tiny) -> None:
    per_step = estimate_cost(tiny()).flops_per_token * 64
    assert resolve_budget(tiny(f"train.budget.flops={5.5 * per_step}")).train == tiny("train.steps=5").train
    with pytest.raises(ConfigError, match=r"tiny\.yaml.*: train\.budget\.flops: .* less than one optimizer step, of"):
        resolve_budget(tiny(f"train.budget.flops={0.5 * per_step}"))
    with pytest.raises(ConfigError, match=r"train\.warmup: 2 is more than the 1 steps of train\.budget"):
        resolve_budget(tiny(f"train.budget.flops={1.5 * per_step}"))
    assert resolve_budget(tiny()) == tiny()


@pytest.mark.slow
def test_seconds_are_measured_once(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, timed = tmp_path / "run", list[float]()
    monkeypatch.setattr(budgets.statistics, "median", lambda times: timed.extend(times) or 0.25)
    with pytest.raises(ConfigError, match=r"budget\.seconds: 0\.1 is less than one optimizer step, of 0\.25 seconds"):
        train(tiny(*QUICK, "train.budget.seconds=0.1"), run)
    assert not run.exists()
    train(tiny(*QUICK, "train.budget.seconds=0.8"), run)
    assert len(timed) >= 10
    assert load(run / "experiment.yaml").train == tiny(*QUICK, "train.steps=3").train
    assert read_run_identity(run)["budget"] == "0.8 seconds"
    monkeypatch.setattr(budgets, "_measure", None)
    train(tiny(*QUICK, "train.budget.seconds=0.8"), run, resume=True)
    train(tiny(*QUICK, "train.steps=3"), run, resume=True)
    train(load(run / "experiment.yaml"), run, resume=True)
    with pytest.raises(ArchlabError, match=r"train\.budget is 0\.8 seconds there and 9 seconds here; name another"):
        train(tiny(*QUICK, "train.budget.seconds=9"), run, resume=True)
    with pytest.raises(ArchlabError, match=r"train\.steps is 3 there and 10 here"):
        train(tiny(*QUICK, "train.budget.tokens=640"), run, resume=True)


def test_compiling_is_decided_by_the_measured_length(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(experiment: Any, budget: Any) -> int:
        measured.append(experiment.train.compile)
        return 10**12 if len(measured) == 1 else 10**9

    monkeypatch.setattr(budgets, "_measure", measure)
    monkeypatch.setattr("archlab.modeling.compile.has_cpp_compiler", lambda: True)
    prepared = budgets.prepare_run(tiny("train.budget.seconds=60", "train.compile=auto")).train
    assert measured == ["off", "block"]
    assert (prepared.steps, prepared.compile, prepared.budget) == (10**9, "block", None)
