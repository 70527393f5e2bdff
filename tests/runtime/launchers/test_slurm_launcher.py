"""Jobs of a real Slurm, run by the test on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import slurm_cluster

from archlab import ArchlabError
from archlab.runtime.launch import STDOUT, Job, Resources
from archlab.runtime.launchers import slurm
from archlab.runtime.outcome import Outcome

pytestmark = pytest.mark.services
PYTHON = (sys.executable, "-S", "-c")
# Saves at a signal and asks to be run again; ends at its second start, in which it finds what the first one saved.
RESUMABLE = """
import os, signal, sys, time
if os.path.exists("saved"): print("resumed", flush=True); sys.exit(0)
def save(number, frame):
    open("saved", "a").write(f"{number} "); time.sleep(0.3); sys.exit(85)
signal.signal(signal.SIGUSR1, save); signal.signal(signal.SIGTERM, save)
print("begun", flush=True); time.sleep(100)
"""
ASLEEP = "import time; print('begun', flush=True); time.sleep(100)"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    pytest.importorskip("submitit", reason='submitit is missing: pip install "archlab[slurm]"')
    with slurm_cluster(tmp_path_factory.mktemp("cluster")) as env, pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        yield


@pytest.fixture
def launcher(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> slurm.SlurmLauncher:
    monkeypatch.setattr(slurm, "POLL_S", 0.2)
    monkeypatch.setattr(slurm, "SETTLE_S", 2.0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return slurm.SlurmLauncher(signal_s=1)


def until(condition: Callable[[], object], what: str = "it has not come to that", seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def end(launcher: slurm.SlurmLauncher, id: str) -> Outcome | None:
    until(lambda: launcher.poll(id) is not None, f"job {id} has not ended")
    return launcher.poll(id)


def job(code: str, folder: str = "job", **resources: float) -> Job:
    return Job((*PYTHON, code), Path(folder), Resources(**resources), {"OWN": "mine"})


def printed() -> str:
    return Path("job", STDOUT).read_text() if Path("job", STDOUT).exists() else ""


def state_of(id: str) -> str:
    return slurm_command("squeue", "--noheader", f"--jobs={id}", "--states=all", "--format=%T").strip()


def slurm_command(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("status", "outcome"), [(0, Outcome.DONE), (2, Outcome.TRIAL), (75, Outcome.MACHINE)])
def test_how_a_job_has_ended(launcher: slurm.SlurmLauncher, status: int, outcome: Outcome) -> None:
    code = "import os; print(os.environ['OWN'], os.environ['OMP_NUM_THREADS'], os.environ['SLURM_CPUS_PER_TASK'])"
    id = launcher.submit(job(f"{code}; raise SystemExit({status})", cpus=2))
    assert end(launcher, id) == outcome
    assert printed() == "mine 2 2\n"
    assert "OWN" not in os.environ


def test_a_job_whose_time_ends_continues_if_it_has_saved(launcher: slurm.SlurmLauncher) -> None:
    # One minute is the shortest time of a job. Both at once, as each takes it.
    deaf = "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    ids = [
        launcher.submit(job(RESUMABLE, time_limit=60)),
        launcher.submit(job(f"{deaf}; {ASLEEP}", "deaf", time_limit=60)),
    ]
    assert end(launcher, ids[0]) == Outcome.DONE
    assert (Path("saved").read_text(), printed()) == ("10 ", "begun\nresumed\n")
    assert end(launcher, ids[1]) == Outcome.TIME_LIMIT


def test_a_preempted_job_continues_later(launcher: slurm.SlurmLauncher) -> None:
    id = launcher.submit(job(RESUMABLE))
    until(printed)
    slurm_command("scancel", "--signal=TERM", id)
    assert end(launcher, id) == Outcome.DONE
    assert (Path("saved").read_text(), printed()) == ("15 ", "begun\nresumed\n")


def test_a_job_that_a_user_cancels_does_not_come_back(launcher: slurm.SlurmLauncher) -> None:
    id = launcher.submit(job(RESUMABLE))
    until(printed)
    slurm_command("scancel", id)
    assert end(launcher, id) == Outcome.PREEMPTED, "as it says itself"
    assert Path("saved").exists()
    until(lambda: state_of(id) == "CANCELLED")


def test_a_stopped_job_has_its_grace(launcher: slurm.SlurmLauncher) -> None:
    id = launcher.submit(job(RESUMABLE))
    until(printed)
    launcher.stop(id, 30)
    assert end(launcher, id) == Outcome.PREEMPTED
    assert (Path("saved").read_text(), printed()) == ("15 ", "begun\n")


def test_a_stopped_job_that_waits_never_runs(launcher: slurm.SlurmLauncher) -> None:
    launcher = slurm.SlurmLauncher(sbatch={"hold": True})
    id = launcher.submit(job(ASLEEP))
    assert launcher.poll(id) is None
    launcher.stop(id, 1)
    assert end(launcher, id) == Outcome.USER
    assert printed() == ""


def test_a_node_that_is_lost_costs_nothing(launcher: slurm.SlurmLauncher) -> None:
    code = (
        "import os, time\nif os.path.exists('saved'): print('resumed'); raise SystemExit(0)\nopen('saved', 'w'); "
        + ASLEEP
    )
    id = launcher.submit(job(code))
    until(printed)
    node = slurm_command("sinfo", "--noheader", "--format=%n").strip()
    slurm_command("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    until(lambda: state_of(id) == "PENDING")
    assert launcher.poll(id) is None
    subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], check=False)  # or it is back by itself
    assert end(launcher, id) == Outcome.DONE


def test_what_slurm_refuses_is_one_line(launcher: slurm.SlurmLauncher, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArchlabError, match=r"Slurm does not take the job: .*invalid partition specified: no_such"):
        slurm.SlurmLauncher(partition="no_such").submit(job(""))
    with pytest.raises(ArchlabError, match=r"Slurm does not take the job: .*Invalid generic resource"):
        launcher.submit(job("", gpus=1))
    assert capfd.readouterr() == ("", "")


def test_a_job_that_fits_nowhere_is_warned_of(launcher: slurm.SlurmLauncher, caplog: pytest.LogCaptureFixture) -> None:
    id = launcher.submit(job("", cpus=4000))
    until(lambda: launcher.poll(id) or caplog.messages)
    assert caplog.messages == [f"Slurm's job {id} waits for a condition that may never be met: PartitionConfig"]
    launcher.stop(id, 0)
    assert end(launcher, id) == Outcome.USER
