"""Ladders whose runs are processes of their own, on this machine or where a launcher places them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from ladder_helpers import RUNGS, climb, losses_in, write_ladder

import archlab
from archlab.errors import ConfigError, MachineError
from archlab.runtime.launch import Job
from archlab.runtime.outcome import Outcome
from archlab.searching import fleet
from archlab.searching.ladder.callbacks import LadderCallback
from archlab.searching.space.launcher_config import LauncherConfig
from archlab.searching.study.workers import read_workers
from archlab.training.progress import Progress

CRASHES = """
import ctypes, multiprocessing
from torch import nn
from archlab import register

@register("ffn", "crashes")
class Crashes(nn.Module):
    "Reads at address 0 in the process of a run. x: [B, T, D] -> [B, T, D]."

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x):
        if multiprocessing.parent_process() is not None:
            ctypes.string_at(0)
        return self.linear(x)
"""


class Events(LadderCallback):
    """Records its calls; `hurt` is sent SIGKILL when the first progress of others is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.results, self.waits, self.killed = folder, dict[str, str](), list[Progress](), 0

    def on_result(self, label: str, loss: float | None, reason: str) -> None:
        self.results[label] = reason

    def on_wait(self, progress: Progress) -> None:
        self.waits.append(progress)
        for worker in read_workers(self.folder):
            if progress.done and worker.state in ("working", "idle") and not self.killed:
                self.killed = worker.pid
                os.kill(worker.pid, signal.SIGKILL)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.services
@pytest.mark.usefixtures("one_thread")
def test_two_workers_reach_what_one_process_does_and_a_crash_costs_its_candidate(tmp_path: Path) -> None:
    plugin = tmp_path / "crashes.py"
    plugin.write_text(CRASHES)
    crash = {"model.layers[*].ffn": {"type": "crashes"}}
    candidates = {"megalodon": {}, "averages": {"model.layers[*].mixer": {"type": "ema"}}}
    whole = climb(write_ladder(tmp_path, candidates=candidates), tmp_path / "whole")
    file = write_ladder(tmp_path, candidates={**candidates, "crash": crash}, plugins=[str(plugin)])
    events = Events(tmp_path / "out")
    result = climb(file, tmp_path / "out", workers=2, callbacks=[events])
    assert result.summary.failed == {"crash": "rung 1: its process was ended by SIGSEGV"}
    assert losses_in(tmp_path / "out").items() >= losses_in(tmp_path / "whole").items()
    assert result.summary.goes_on == whole.summary.goes_on
    assert events.results["rung 1: megalodon seed 1"] == ""
    assert (tmp_path / "out/rungs/threads.json").is_file()
    climb(file, tmp_path / "out", workers=1, force=True)  # all that is there is archlab's


@pytest.mark.services
def test_placed_workers_climb_though_one_is_killed(tmp_path: Path) -> None:
    rungs = [{"set": {"model.dim": 16}, "tokens": 3200, "seeds": 3}, {"set": {"model.dim": 24}, "tokens": 3200}]
    file = write_ladder(tmp_path, rungs=rungs, study={"launcher": "local"})
    events = Events(tmp_path / "out")
    result = climb(file, tmp_path / "out", workers=2, callbacks=[events])
    assert events.killed
    assert [len(rung.losses) for rung in result.summary.rungs] == [2, 2]
    assert {progress.stage for progress in events.waits} >= {"rung 1 of 2", "rung 2 of 2"}
    assert not result.summary.failed


class Ending:
    """A launcher whose jobs have all ended, and have trained nothing."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def submit(self, job: Job) -> str:
        return "0"

    def poll(self, id: str) -> Outcome | None:
        return self.outcome

    def stop(self, id: str, grace_s: float) -> None:
        raise AssertionError("nothing is to be stopped")


@pytest.mark.slow
@pytest.mark.parametrize(("outcome", "rungs"), [(Outcome.TRIAL, RUNGS), (Outcome.DONE, RUNGS[:1])])
def test_workers_that_end_early_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, rungs: Sequence[object]
) -> None:
    monkeypatch.setattr(LauncherConfig, "create", lambda self: Ending(outcome))
    monkeypatch.setattr(fleet, "_POLL_S", 0.01)
    file = write_ladder(tmp_path, rungs=rungs, study={"launcher": "local"})
    with pytest.raises(MachineError, match=r"ended before the search|and the search has not"):
        climb(file, tmp_path / "out", workers=2)


def test_a_launcher_gets_the_number_of_workers(tmp_path: Path) -> None:
    file = write_ladder(tmp_path, study={"launcher": "local"})
    with pytest.raises(ConfigError, match="is to place a number of workers"):
        archlab.run_ladder(str(file), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
