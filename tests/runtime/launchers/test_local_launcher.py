"""Jobs on this machine: their place, their end, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from archlab import ArchlabError
from archlab.runtime import shares
from archlab.runtime.launch import STDERR, STDOUT, Job, Resources
from archlab.runtime.launchers.local import LocalLauncher
from archlab.runtime.outcome import Outcome
from archlab.runtime.shares import Shares

pytestmark = pytest.mark.services
PYTHON = (sys.executable, "-S", "-c")
SLEEP = "import time; print(time.time(), flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


def job(folder: Path, code: str, **resources: float) -> Job:
    return Job((*PYTHON, code), folder, Resources(**resources))


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to that"
        time.sleep(0.01)


def end(launcher: LocalLauncher, id: str) -> Outcome | None:
    until(lambda: launcher.poll(id) is not None)
    return launcher.poll(id)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def printed(folder: Path) -> str:
    return (folder / STDOUT).read_text() if (folder / STDOUT).exists() else ""


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("print('out'); import sys; print('err', file=sys.stderr)", Outcome.DONE),
        ("raise SystemExit(2)", Outcome.TRIAL),
        ("raise SystemExit(75)", Outcome.MACHINE),
        ("raise SystemExit(85)", Outcome.PREEMPTED),
        ("import os; os.abort()", Outcome.KILLED),
        ("import os; os.kill(os.getpid(), 9)", Outcome.KILLED),
    ],
)
def test_how_a_job_has_ended(code: str, outcome: Outcome, tmp_path: Path) -> None:
    launcher = LocalLauncher()
    assert end(launcher, launcher.submit(job(tmp_path / "job", code))) == outcome
    if outcome == Outcome.DONE:
        assert (printed(tmp_path / "job"), (tmp_path / "job" / STDERR).read_text()) == ("out\n", "err\n")


def test_a_command_that_is_missing_is_the_machines(tmp_path: Path) -> None:
    launcher = LocalLauncher()
    assert end(launcher, launcher.submit(Job(("/no/such",), tmp_path))) == Outcome.MACHINE
    assert "/no/such" in (tmp_path / STDERR).read_text()


def test_jobs_wait_until_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(shares.DEVICES, "GPU-a,GPU-b")
    launcher = LocalLauncher(cpus=1)
    code = (
        "import os, time; begin = time.monotonic(); time.sleep(0.2)\n"
        "names = 'OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'X'\n"
        "print(begin, time.monotonic(), len(os.sched_getaffinity(0)), *(os.environ[name] for name in names))"
    )
    jobs = [Job((*PYTHON, code), tmp_path / str(n), Resources(gpus=1), {"X": str(n)}) for n in range(3)]
    assert [end(launcher, id) for id in [launcher.submit(each) for each in jobs]] == [Outcome.DONE] * 3
    lines = [printed(tmp_path / str(n)).split() for n in range(3)]
    assert [line[2:] for line in lines] == [["1", "1", "GPU-a", str(n)] for n in range(3)]
    assert all(float(before[1]) <= float(after[0]) for before, after in pairwise(lines))


def test_a_job_that_never_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match="a job asks for 2 cores, and this machine provides 1"):
        LocalLauncher(cpus=1).submit(job(tmp_path / "job", "", cpus=2))
    assert not (tmp_path / "job").exists()


def test_a_large_job_is_not_overtaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = LocalLauncher()
    cores = tuple(os.sched_getaffinity(0))
    monkeypatch.setattr(launcher, "_shares", Shares(2, (cores * 2)[:2], ()))
    ids = [launcher.submit(job(tmp_path / "0", SLEEP)), launcher.submit(job(tmp_path / "1", SLEEP, cpus=2))]
    ids.append(launcher.submit(job(tmp_path / "2", SLEEP)))
    until(lambda: printed(tmp_path / "0"))
    time.sleep(0.1)
    assert [launcher.poll(id) for id in ids] == [None] * 3
    assert not printed(tmp_path / "2")
    launcher.stop(ids[1], 5)
    assert launcher.poll(ids[1]) == Outcome.USER, "it had not started"
    until(lambda: printed(tmp_path / "2"))
    for id in (ids[0], ids[2]):
        launcher.stop(id, 5)
        assert end(launcher, id) == Outcome.USER


def test_the_end_of_a_job_takes_its_children_along(tmp_path: Path) -> None:
    child = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    code = (
        "import subprocess, sys\n"
        f"one = subprocess.Popen([sys.executable, '-S', '-c', {child!r}])\n"
        f"two = subprocess.Popen([sys.executable, '-S', '-c', {child!r}], start_new_session=True)\n"
        f"print(one.pid, two.pid, flush=True)\n{STUBBORN}"
    )
    launcher = LocalLauncher()
    id = launcher.submit(job(tmp_path, code))
    until(lambda: printed(tmp_path).count("\n") == 4)
    pids = [int(word) for word in printed(tmp_path).split() if "." not in word]
    begin = time.monotonic()
    launcher.stop(id, 0.3)
    assert end(launcher, id) == Outcome.KILLED
    assert 0.3 <= time.monotonic() - begin < 5
    assert [is_running(pid) for pid in pids] == [False, False]


def test_a_time_limit(tmp_path: Path) -> None:
    launcher = LocalLauncher()
    assert end(launcher, launcher.submit(job(tmp_path, SLEEP, time_limit=0.5))) == Outcome.TIME_LIMIT


def test_jobs_end_with_their_launcher(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from archlab.runtime.launch import Job; from archlab.runtime.launchers.local import LocalLauncher\n"
        f"LocalLauncher().submit(Job((sys.executable, '-S', '-c', {'import os; print(os.getpid()); ' + SLEEP!r}),"
        f" Path({str(tmp_path)!r}))); time.sleep(60)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: printed(tmp_path).count("\n") == 2)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    until(lambda: not is_running(int(printed(tmp_path).split()[0])), 5)


@pytest.mark.parametrize(
    ("status", "outcome"), [("0", Outcome.DONE), ("85 * int(os.environ['RANK'])", Outcome.PREEMPTED)]
)
def test_processes_of_a_job(status: str, outcome: Outcome, tmp_path: Path) -> None:
    launcher = LocalLauncher()
    id = launcher.submit(
        job(tmp_path, f"import os; print('rank', flush=True); raise SystemExit({status})", processes=2)
    )
    assert end(launcher, id) == outcome
    assert printed(tmp_path).count("rank") == 2


def test_processes_of_a_job_are_asked_to_end_once(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; count = []; signal.signal(signal.SIGTERM, lambda *_: count.append(1))\n"
        "print('ready', flush=True)\n"
        "while not count: time.sleep(0.01)\n"
        "time.sleep(0.3); print('asked', len(count), flush=True); sys.exit(85)"
    )
    launcher = LocalLauncher()
    id = launcher.submit(job(tmp_path, code, processes=2))
    until(lambda: printed(tmp_path).count("ready") == 2)
    launcher.stop(id, 10)
    assert end(launcher, id) == Outcome.PREEMPTED
    assert printed(tmp_path).count("asked 1") == 2
