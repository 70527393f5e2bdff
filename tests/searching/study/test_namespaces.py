"""Two workers on one directory that share no network, no process IDs and no host name."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from search_helpers import write_space

from archlab.searching.space.load_space import load_space
from archlab.searching.study.study import open_study
from archlab.searching.study.trial_attrs import trial_attrs
from archlab.searching.study.workers import Worker, read_workers

pytestmark = pytest.mark.services
UNSHARE = ["unshare", "-n", "-p", "-u", "--fork", "--mount-proc"]
_WORKER = """
import socket, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
socket.sethostname({name!r})
from archlab.storage import lease_file
if {kernel!r}:
    lease_file.boot_id = lambda: {kernel!r}  # before any module has it: a machine of its own
from archlab import Callback, SearchCallback
from archlab.storage import leases
from search_helpers import search

leases.BEAT_S, leases.LEASE_S = 0.1, 2.0
folder = Path({folder!r})

class Slow(SearchCallback, Callback):
    def on_run(self, label, values):
        self.label = label
        return self

    def on_start(self, experiment, step):
        (folder / f"{{self.label}} from {{step}} {name}").touch()

    def on_step(self, record):
        if self.label == "trial 0" and record["step"] == 3:
            while not (folder / "continue").exists():
                time.sleep(0.02)
        elif self.label != "baseline" and record["step"] == 1:
            time.sleep({seconds})

folder.mkdir(exist_ok=True)
search(Path({file!r}), folder / "s", trials=6, callbacks=[Slow()])
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a worker in namespaces of its own."""
    try:
        can = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if can.returncode:
        pytest.skip(f"no namespaces can be made here: {can.stderr.decode().strip()}")
    train = {"checkpoint_every": 1}
    study = {"storage": "journal", "pruner": "none", "sampler": "random"}
    override = {f"train.{name}": value for name, value in train.items()}
    file = write_space(tmp_path, study=study, override=override)
    started = list[subprocess.Popen[bytes]]()

    def begin(name: str, kernel: str, seconds: float = 0.7) -> subprocess.Popen[bytes]:
        tests, folder = str(Path(__file__).parents[2]), str(tmp_path / "w")
        script = _WORKER.format(tests=tests, file=str(file), folder=folder, name=name, kernel=kernel, seconds=seconds)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [*UNSHARE, sys.executable, "-c", script]
        started.append(subprocess.Popen(command, env=environment, start_new_session=True))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not ready():
        assert process.poll() is None, "the worker ended too early"
        time.sleep(0.02)


def by_host(folder: Path) -> dict[str, Worker]:
    return {worker.host: worker for worker in read_workers(folder)}


@pytest.mark.parametrize(
    ("number", "kernels"),
    [(signal.SIGKILL, ("", "")), (signal.SIGKILL, ("one", "other")), (signal.SIGSTOP, ("", ""))],
    ids=["killed", "killed-elsewhere", "suspended"],
)
def test_one_takes_over_from_the_other(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]], number: int, kernels: tuple[str, str]
) -> None:
    folder, first = tmp_path / "w", start("here", kernels[0])
    search_dir, run = folder / "s", folder / "s" / "trials" / "0000"
    wait_for(lambda: len(list((run / "checkpoints").glob("step_*"))) == 2, first)
    assert by_host(search_dir)["here"].trial == 0
    os.killpg(first.pid, number)
    other = start("there", kernels[1])
    assert other.wait() == 0
    study = open_study(load_space(search_dir / "search.yaml"), search_dir)
    trials = study.get_trials()
    (again,) = [trial for trial in trials if trial_attrs(trial).get("retry_of") == 0]
    assert [trial.state.name for trial in trials].count("COMPLETE") == 6
    assert (trial_attrs(trials[0])["reason"], trials[0].params) == ("interrupted", again.params)
    assert (trial_attrs(trials[0])["progress"], trial_attrs(again)["fruitless"]) == ([0, 2], 0), "it had made progress"
    assert (folder / f"trial {again.number} from 2 there").exists(), "from its last checkpoint"
    (lost,) = (search_dir / "workers").glob("*.lost")
    at_once = (number, kernels) == (signal.SIGKILL, ("", ""))
    why = "its process has ended" if at_once else "it has not answered for 2 s"
    assert json.loads(lost.read_text())["why"] == why
    assert by_host(search_dir)["here"].state == "died"
    if number == signal.SIGSTOP:
        before = set(run.rglob("*"))
        (folder / "continue").touch()
        os.killpg(first.pid, signal.SIGCONT)
        assert first.wait() == 0
        assert study.get_trials()[0].state.name == "FAIL"
        assert {path.name for path in set(run.rglob("*")) - before} <= {"stopped"}, "no checkpoint, and no model"
