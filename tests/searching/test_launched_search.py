"""Workers that a launcher places: which of their jobs are submitted again, and a search by two of them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from search_helpers import pretend, replace_costs, replace_training, write_space
from slurm_cluster import slurm_cluster

import archlab
from archlab import ArchlabError, ConfigError
from archlab.runtime.launch import STDERR, Job
from archlab.runtime.outcome import Outcome
from archlab.searching.fleet import MAX_DEATHS, Fleet
from archlab.searching.run import find_search
from archlab.searching.space.load_space import load_space
from archlab.searching.study.workers import read_workers

LOCAL = {"sampler": "random", "trials": 4, "pruner": "none", "launcher": "local"}


class Ending:
    """A launcher each of whose jobs has ended, the next one as the next outcome says."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes, self.jobs = list(outcomes), []

    def submit(self, job: Job) -> str:
        self.jobs.append(job)
        return str(len(self.jobs))

    def poll(self, id: str) -> Outcome | None:
        return self.outcomes[int(id) - 1] if int(id) <= len(self.outcomes) else None

    def stop(self, id: str, grace_s: float) -> None:
        raise AssertionError("nothing is to be stopped")


@pytest.mark.parametrize(
    ("outcomes", "jobs"),
    [
        ([Outcome.DONE], 1),
        ([Outcome.TRIAL], 1),
        ([Outcome.USER], 1),
        ([Outcome.PREEMPTED, Outcome.DONE], 2),
        ([Outcome.TIME_LIMIT, Outcome.MACHINE, Outcome.DONE], 3),
        ([Outcome.KILLED] * 9, MAX_DEATHS),
    ],
)
def test_a_worker_is_placed_again_if_its_machine_has_ended_it(
    tmp_path: Path, outcomes: list[Outcome], jobs: int
) -> None:
    launcher = Ending(outcomes)
    fleet = Fleet(launcher, load_space(write_space(tmp_path)), tmp_path / "s", 1)
    while fleet.poll(0):
        assert len(launcher.jobs) <= len(outcomes)
    assert len(launcher.jobs) == jobs


def test_deaths_count_in_a_row_without_a_trial_that_has_ended(tmp_path: Path) -> None:
    launcher = Ending([Outcome.KILLED] * 20)
    fleet = Fleet(launcher, load_space(write_space(tmp_path)), tmp_path / "s", 1)
    for ended in range(10):
        assert fleet.poll(ended)
    assert len(launcher.jobs) == 11


def test_the_reason_is_the_last_line_of_a_worker_that_was_unwell(tmp_path: Path) -> None:
    fleet = Fleet(Ending([Outcome.DONE, Outcome.TRIAL]), load_space(write_space(tmp_path)), tmp_path / "s", 2)
    file = tmp_path / "s" / "jobs" / "1" / STDERR
    file.parent.mkdir(parents=True)
    file.write_text("a warning\narchlab: nothing works\n")
    assert not fleet.poll(0)
    assert fleet.explain() == f"the workers have ended before the search: trial: nothing works; see {file}"


def test_a_password_travels_in_the_environment_alone(tmp_path: Path) -> None:
    storage = "postgresql://me:s%40cret@host/searches"
    space = load_space(write_space(tmp_path, study={**LOCAL, "storage": storage}))
    launcher = Ending([])
    Fleet(launcher, space, tmp_path / "s", 1)
    (job,) = launcher.jobs
    assert job.env == {"ARCHLAB_STORAGE_PASSWORD": "s@cret"}
    assert not any("cret" in word for word in job.argv)


@pytest.mark.parametrize(
    ("study", "workers", "problem"),
    [
        (LOCAL, None, "study.launcher: is to place a number of workers: give it, as in --workers 4"),
        (LOCAL, "auto", "study.launcher: is to place a number of workers: give it, as in --workers 4"),
        ({"resources": {"gpus": 1}}, 2, "study.resources: are of workers that study.launcher places"),
        ({**LOCAL, "resources": {"gpu": 1}}, 2, "unknown key 'gpu'; did you mean 'gpus'?"),
        ({**LOCAL, "resources": {"cpus": 0}}, 2, "study.resources.cpus"),
    ],
)
def test_what_cannot_be_placed_is_refused(tmp_path: Path, study: Any, workers: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        archlab.search(str(write_space(tmp_path, study=study)), out=tmp_path / "s", workers=workers)
    assert problem in str(caught.value)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_search_continues_by_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, pretend())
    replace_costs(monkeypatch, archlab.show(write_space(tmp_path).parent / "tiny.yaml"))
    file, study = write_space(tmp_path, study={"trials": 2, "sampler": "random"}), tmp_path / "s"
    archlab.search(str(file), out=study)
    file.unlink()
    assert sum(archlab.search(study, trials=3).summary.trials.values()) == 3
    with pytest.raises(ArchlabError, match="is the directory of a search, which cannot continue in"):
        find_search(study, out=tmp_path / "other")


class Killer(archlab.SearchCallback):
    """Kills a worker once one trial has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.killed, self.waits = folder, 0, 0

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        for worker in read_workers(self.folder):
            if worker.state == "working" and not self.killed:
                self.killed = worker.pid
                os.kill(worker.pid, signal.SIGKILL)

    def on_wait(self) -> None:
        self.waits += 1


@pytest.mark.services
def test_two_placed_workers_finish_a_search_though_one_is_killed(tmp_path: Path) -> None:
    train = {"train.steps": 60, "train.checkpoint_every": 5, "train.eval_every": 60}
    file, folder = write_space(tmp_path, override=train, study=LOCAL), tmp_path / "s"
    callback = Killer(folder)
    result = archlab.search(str(file), out=folder, workers=2, callbacks=[callback])
    assert callback.killed
    assert callback.waits
    assert result.summary.trials == {"complete": 4}
    assert result.best_trial is not None
    assert (folder / "jobs" / "0" / "stdout.log").read_text()
    archlab.search(str(file), out=folder, workers=1, force=True, trials=1)  # all that is there is archlab's


class Requeuer(archlab.SearchCallback):
    """Has Slurm stop and queue one worker again, as for a job of higher priority, once a trial has ended."""

    def __init__(self) -> None:
        self.requeued, self.has_ended = "", False

    def on_wait(self) -> None:
        running = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%A"], capture_output=True, text=True, check=True)
        if not self.requeued and (jobs := running.stdout.split()) and self.has_ended:
            self.requeued = jobs[0]
            subprocess.run(["scontrol", "requeue", self.requeued], check=True)

    def on_result(self, label: str, state: str, reason: str, metrics: Mapping[str, float]) -> None:
        self.has_ended = True


@pytest.mark.services
def test_workers_in_a_queue_of_slurm_finish_a_search_though_one_is_requeued(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason='submitit is missing: pip install "archlab[slurm]"')
    with slurm_cluster(tmp_path_factory.mktemp("cluster")) as env:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        train = {"train.steps": 60, "train.checkpoint_every": 5, "train.eval_every": 60}
        file = write_space(tmp_path, override=train, study={**LOCAL, "launcher": "slurm", "trials": 6})
        callback = Requeuer()
        result = archlab.search(str(file), out=tmp_path / "s", workers=2, callbacks=[callback])
    assert callback.requeued
    assert result.summary.trials == {"complete": 6}
