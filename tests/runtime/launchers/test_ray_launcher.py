"""Jobs of a real Ray cluster of two nodes, run by the test on this machine."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from archlab import ArchlabError, MachineError
from archlab.runtime.launch import STDOUT, Job, Resources
from archlab.runtime.launchers.ray import RayLauncher
from archlab.runtime.outcome import Outcome

# Ray's own: sockets and processes that it leaves to the garbage collector.
pytestmark = [
    pytest.mark.services,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PYTHON = (sys.executable, "-S", "-c")
ASLEEP = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason='ray is missing: pip install "archlab[ray]"')
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head = {"num_cpus": 2, "num_gpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def launcher(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RayLauncher:
    monkeypatch.chdir(tmp_path)
    return RayLauncher(address=cluster.address)


def until(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to that"
        time.sleep(0.05)


def end(launcher: RayLauncher, id: str) -> Outcome | None:
    until(lambda: launcher.poll(id) is not None)
    return launcher.poll(id)


def job(code: str, folder: str = "job", **resources: float) -> Job:
    return Job((*PYTHON, code), Path(folder), Resources(**resources), {"OWN": "mine"})


def printed(folder: str = "job") -> str:
    return Path(folder, STDOUT).read_text() if Path(folder, STDOUT).exists() else ""


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_jobs_have_what_they_ask_for_and_wait_for_it(launcher: RayLauncher) -> None:
    names = "'OWN', 'OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES'"
    code = f"import os; print(*(os.environ.get(name) for name in ({names})), os.getcwd()); raise SystemExit(%d)"
    statuses = [launcher.submit(job(code % status, str(status), cpus=2, gpus=1)) for status in (0, 75)]
    assert [end(launcher, id) for id in statuses] == [Outcome.DONE, Outcome.MACHINE]
    assert printed("0").split()[-2:] == ["0", os.getcwd()]
    assert printed("0").split()[0] == "mine"


def test_what_no_node_has_is_refused(launcher: RayLauncher, cluster: Any) -> None:
    with pytest.raises(ArchlabError, match=r"a job asks for 64 CPU, 0 GPU on one node, .* have: 2 CPU, 1 GPU"):
        launcher.submit(job("", cpus=64))
    with pytest.raises(ArchlabError, match=r"1 CPU, 0 GPU, 1 tpu on one node, .* 2 CPU, 1 GPU$"):
        RayLauncher(address=cluster.address, resources={"tpu": 1}).submit(job(""))


@pytest.mark.parametrize(("address", "problem"), [("127.0.0.1:1", "refused"), ("here", "invalid literal")])
def test_a_cluster_that_is_not_there(address: str, problem: str) -> None:
    ray = pytest.importorskip("ray", reason='ray is missing: pip install "archlab[ray]"')
    ray.shutdown()
    with pytest.raises(MachineError, match=f"no Ray cluster answers at {address}: .*{problem}"):
        RayLauncher(address=address)


def test_a_stopped_job_has_its_grace_and_one_that_waits_never_runs(launcher: RayLauncher) -> None:
    code = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(85)); {ASLEEP}"
    first = launcher.submit(job(code, "first", cpus=2))
    until(lambda: printed("first"))
    second = launcher.submit(job(ASLEEP, "second", cpus=2))
    launcher.stop(second, 10)
    assert launcher.poll(second) == Outcome.USER
    launcher.stop(first, 30)
    assert end(launcher, first) == Outcome.PREEMPTED
    assert not Path("second").exists()


def test_a_node_that_dies_is_the_machines_and_takes_its_jobs_along(cluster: Any, launcher: RayLauncher) -> None:
    node = cluster.add_node(num_cpus=1, resources={"other": 1}, object_store_memory=80_000_000)
    elsewhere = RayLauncher(address=cluster.address, resources={"other": 1})
    id = elsewhere.submit(job(ASLEEP))
    until(printed)
    cluster.remove_node(node, allow_graceful=False)
    assert end(elsewhere, id) == Outcome.MACHINE
    until(lambda: not is_running(int(printed())))
