"""Several workers of one search, whose trials are processes: what each of their ends costs, and what it does not."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial
from search_helpers import write_space

import archlab
from archlab.searching.space.load_space import load_space
from archlab.searching.study.study import is_interrupted, open_study
from archlab.searching.study.workers import read_workers
from archlab.training.metrics import read as read_metrics

PLUGIN = """
import os, sys, time
import torch
from torch._subclasses import FakeTensor
from archlab import register

@register("norm", "faulty")
class Faulty(torch.nn.Module):
    def __init__(self, dim: int, *, how: str = "none", eps: float = 1e-6) -> None:
        super().__init__()
        if how == "crash when built":
            os.kill(os.getpid(), 11)
        self.how, self.weight = how, torch.nn.Parameter(torch.ones(dim))

    def forward(self, x):
        if isinstance(x, FakeTensor):  # which only counts what training would take
            if self.how == "end when counted":
                os._exit(4)
            return x * self.weight
        if self.training and self.how == "exit":
            sys.exit(0)
        if self.training and self.how == "end":
            os._exit(3)
        if self.training and self.how == "crash":
            os.kill(os.getpid(), 11)
        if self.training and self.how == "raise":
            raise ValueError("a mistake of the plugin's")
        if self.training and self.how == "memory":
            raise MemoryError("no room")
        if self.training and self.how == "hang":
            time.sleep(3600)
        return x * self.weight
"""
REASONS = {
    "exit": "sys.exit(0) was called",
    "end": "its process ended by itself with status 3",
    "crash": "its process ended 2 times while it ran, without a further checkpoint",
    "raise": "ValueError: a mistake of the plugin's",
    "memory": "out of memory: no room",
    "hang": "ran longer than study.time_limit, 20 s",
    "crash when built": "its process ended 2 times while it ran, without a further checkpoint",
    "end when counted": "its process ended by itself with status 4",
}


def ended(folder: Path) -> list[FrozenTrial]:
    trials = open_study(load_space(folder / "search.yaml", recorded=True), folder).get_trials()
    return [trial for trial in trials if not is_interrupted(trial)]


@pytest.mark.services
def test_whatever_ends_a_trial_costs_that_trial_only(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(PLUGIN)
    norm = "model.layers[*].norm"
    choices = ["rms", *({"type": "faulty", "how": how} for how in REASONS)]
    study = {"sampler": "brute_force", "trials": 9, "time_limit": 20}
    # What is solved for is counted in the trial's process, too.
    held = {"hold": {"params": 16_000, "by": "model.layers[*].ffn.hidden_dim", "tolerance": 0.5}}
    file = write_space(tmp_path, plugins=["faulty.py"], vary={norm: choices}, study=study, **held)
    result = archlab.search(str(file), out=tmp_path / "s", workers=2)
    states, reasons = {}, {}
    for trial in ended(tmp_path / "s"):
        value = trial.user_attrs["values"][norm]
        how = value["how"] if isinstance(value, dict) else value
        states[how], reasons[how] = trial.state.name, trial.user_attrs["reason"]
    assert states == {"rms": "COMPLETE", **dict.fromkeys(REASONS, "FAIL")}
    for how, reason in REASONS.items():
        assert reasons[how].startswith(reason), how
    assert result.best_trial is not None
    assert not read_workers(tmp_path / "s"), "a worker that ends well leaves no lease"


SABOTEUR = """
import json, os, pathlib
import torch
from torch._subclasses import FakeTensor
from archlab import register

SIGNALS = pathlib.Path(__file__).with_name("signals.json")

@register("norm", "saboteur")
class Saboteur(torch.nn.Module):
    "Sends its own process the next signal of a file in the third update of a run."

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training and not isinstance(x, FakeTensor):
            self.updates += 1
            signals = json.loads(SIGNALS.read_text())
            if self.updates == 3 and signals:
                SIGNALS.write_text(json.dumps(signals[1:]))
                os.kill(os.getpid(), signals[0])
        return x
"""


class Sabotage(archlab.SearchCallback):
    """Gives the signals to the trials, once the baseline, killed, is trained; keeps why each attempt ended."""

    def __init__(self, file: Path, signals: Sequence[signal.Signals]) -> None:
        self.file, self.signals = file, [*signals]
        self.reasons: set[str] = set()
        file.write_text(json.dumps([signal.SIGKILL]))

    def on_run(self, label: str, values: Mapping[str, Any]) -> archlab.Callback:
        if label.startswith("trial") and self.signals:
            self.file.write_text(json.dumps(self.signals))
            self.signals = []
        return archlab.Callback()

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        self.reasons.add(reason)


@pytest.mark.services
@pytest.mark.parametrize(
    ("checkpoint_every", "signals"),
    [(1, [signal.SIGTERM, signal.SIGKILL]), (0, [signal.SIGKILL, signal.SIGKILL, signal.SIGKILL])],
)
def test_a_trial_that_is_killed_continues_and_ends_as_if_it_had_not_been(
    tmp_path: Path, checkpoint_every: int, signals: list[signal.Signals]
) -> None:
    # Also without checkpoints of its own: each retry saves some, and makes progress.
    # Signals are of a run's own making: whoever sends one to a run of milliseconds may be late.
    (tmp_path / "saboteur.py").write_text(SABOTEUR)
    train = {"train.steps": 6, "train.checkpoint_every": checkpoint_every, "train.eval_every": 3}
    study = {"sampler": "random", "trials": 3, "pruner": "none"}
    override = {**train, "model.norm": "saboteur"}
    file = write_space(tmp_path, override=override, study=study, plugins=["saboteur.py"])
    sabotage = Sabotage(tmp_path / "signals.json", signals)
    archlab.search(str(file), out=tmp_path / "killed", workers=1, callbacks=[sabotage])
    archlab.search(str(file), out=tmp_path / "whole", workers=2)
    assert {"its process was ended by SIGKILL"} < sabotage.reasons
    assert json.loads(sabotage.file.read_text()) == sabotage.signals == []
    values = [{t.user_attrs["values"]["train.lr"]: t.value for t in ended(tmp_path / n)} for n in ("killed", "whole")]
    assert values[0] == values[1]
    assert len(values[0]) == 3
    for run in (tmp_path / "killed" / "trials").iterdir():
        if (run / "experiment.yaml").is_file() and ended_in(run):
            again = archlab.train(run / "experiment.yaml", out=tmp_path / f"again{run.name}")
            assert again.metrics["val_loss"] == read_metrics(run)[-1]["val_loss"]


def ended_in(run: Path) -> bool:
    return any(record["step"] == 6 and "val_loss" in record for record in read_metrics(run))


@pytest.mark.services
def test_a_search_that_is_stopped_saves_every_trial_and_continues(tmp_path: Path) -> None:
    train = {"train.steps": 400, "train.eval_every": 200, "train.checkpoint_every": 0}
    file = write_space(tmp_path, override=train, study={"sampler": "random", "trials": 2, "pruner": "none"})

    stop = Stop()
    with pytest.raises(KeyboardInterrupt):
        archlab.search(str(file), out=tmp_path / "s", workers=2, callbacks=[stop])
    assert len(list((tmp_path / "s").glob("**/checkpoints/step_*"))) == len(stop.begun) == 2
    result = archlab.search(str(file), out=tmp_path / "s", workers=2)
    assert result.summary.trials == {"complete": 2}


class Stop(archlab.SearchCallback):
    """Sends an interrupt as soon as two runs have started."""

    def __init__(self) -> None:
        self.begun: set[str] = set()

    def on_run(self, label: str, values: Mapping[str, Any]) -> archlab.Callback:
        return _Note(self.begun, label)


class _Note(archlab.Callback):
    def __init__(self, begun: set[str], label: str) -> None:
        self.begun, self.label = begun, label

    def on_step(self, record: Mapping[str, float]) -> None:
        if self.label not in self.begun:
            self.begun.add(self.label)
            if len(self.begun) == 2:
                os.kill(os.getpid(), signal.SIGINT)
