"""Several workers of one search in processes of their own, some of which are killed."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from search_helpers import is_free, search, trials_of, write_space

import archlab.searching.worker
from archlab import ArchlabError
from archlab.config.experiment import Experiment
from archlab.searching.space.load_space import load_space
from archlab.searching.study.claims import lock_file
from archlab.searching.study.study import MAX_ATTEMPTS, finished_trials, is_interrupted, open_study

EMA = "model.layers[*].mixer.ema"
NO_PRUNING = {"pruner": "none"}


_WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import archlab.searching.trials.train_trial
from search_helpers import pretend, search

done = pretend()

def slow(experiment, folder, **options):
    if folder.name != "baseline":
        (folder / "began").write_text(str(experiment.train.lr))
        time.sleep({seconds})
    return done(experiment, folder, **options)

archlab.searching.trials.train_trial.train = slow
search({file!r}, Path({folder!r}), trials={trials})
"""


def start_worker(file: Path, folder: Path, *, seconds: float, trials: int) -> subprocess.Popen[bytes]:
    tests = str(Path(__file__).parents[1])
    script = _WORKER.format(tests=tests, file=str(file), folder=str(folder), seconds=seconds, trials=trials)
    return subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(ready: Callable[[], bool], worker: subprocess.Popen[bytes]) -> None:
    while not ready():
        assert worker.poll() is None, "the worker ended too early"
        time.sleep(0.02)


@pytest.mark.services
def test_a_killed_worker_s_trial_is_retried_and_a_live_one_s_is_left_alone(tmp_path: Path, fake: Any) -> None:
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    killed = start_worker(file, folder, seconds=600, trials=3)
    try:
        wait_for((folder / "trials" / "0000" / "began").exists, killed)
        search(file, folder, trials=2)
        assert [trial.state.name for trial in trials_of(folder)] == ["RUNNING", "COMPLETE"]
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    search(file, folder, trials=3)
    trials = trials_of(folder)
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert trials[0].user_attrs["reason"] == "interrupted"
    assert trials[2].params == trials[0].params
    assert len(finished_trials(open_study(load_space(folder / "search.yaml"), folder))) == 3


@pytest.mark.slow
def test_a_trial_that_keeps_killing_its_process_is_given_up(tmp_path: Path, fake: Any) -> None:
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    search(file, folder, trials=1)
    study = open_study(load_space(file), folder)
    study.enqueue_trial({"train.lr": 0.05})
    for _ in range(MAX_ATTEMPTS):
        trial = study.ask()  # by a worker that dies before it locks the trial
        assert trial.suggest_float("train.lr", 0.001, 0.1, log=True) == 0.05
        archlab.searching.worker.fail_stale_trials(study, folder)
    given_up = [trial for trial in trials_of(folder) if "its process ended" in trial.user_attrs.get("reason", "")]
    assert len(given_up) == 1
    assert not study.get_trials(states=(TrialState.WAITING,))
    assert len(finished_trials(study)) == 2


@pytest.mark.services
def test_two_workers_share_the_trials(tmp_path: Path, fake: Any) -> None:
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    workers = [start_worker(file, folder, seconds=0.05, trials=8) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    trials = trials_of(folder)
    assert Counter(trial.state.name for trial in trials) == {"COMPLETE": 8}
    assert len({trial.params["train.lr"] for trial in trials}) == 8


@pytest.mark.services
def test_workers_of_which_one_is_killed_and_replaced_run_each_trial_once(tmp_path: Path, fake: Any) -> None:
    file, folder = write_space(tmp_path, study=NO_PRUNING), tmp_path / "s"
    workers = [start_worker(file, folder, seconds=0, trials=16) for _ in range(3)]
    wait_for((folder / "trials" / "0003" / "began").exists, workers[-1])  # while the others continue
    workers[0].kill()
    workers.append(start_worker(file, folder, seconds=0, trials=16))
    assert workers.pop(0).wait() == -signal.SIGKILL
    assert [worker.wait() for worker in workers] == [0] * 3
    trials = trials_of(folder)
    ended = [trial for trial in trials if not is_interrupted(trial)]
    assert [trial.state.name for trial in ended] == ["COMPLETE"] * 16
    assert len({trial.params["train.lr"] for trial in ended}) == 16
    retried = Counter(trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs)
    assert set(retried.values()) <= {1}
    best = json.loads((folder / "best" / "provenance.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    assert best["trial"] == summary["best_trial"]["trial"] == min(ended, key=lambda trial: trial.value or 0).number
    assert summary["trials"] == {"complete": 16}


@pytest.mark.slow
def test_force_is_refused_while_another_worker_searches(tmp_path: Path, fake: Any) -> None:
    file, folder = write_space(tmp_path), tmp_path / "s"
    search(file, folder, trials=1)
    with (folder / ".workers.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(ArchlabError, match="another process is searching here"):
            search(file, folder, trials=1, force=True)
    assert len(trials_of(folder)) == 1


@pytest.mark.slow
def test_a_lock_is_held_for_as_long_as_a_trial_runs(tmp_path: Path, fake: Any) -> None:
    free: list[bool] = []

    def loss(experiment: Experiment) -> float:
        if experiment.train.lr != 0.01:
            thread = threading.Thread(target=lambda: free.append(is_free(lock_file(tmp_path / "s", 0))))
            thread.start()
            thread.join()
        return 1.0

    fake(loss=loss)
    search(write_space(tmp_path), tmp_path / "s", trials=1)
    assert free == [False]
    assert is_free(lock_file(tmp_path / "s", 0))
