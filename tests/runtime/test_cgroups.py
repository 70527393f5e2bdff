"""Limits of control groups, in trees as Linux shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from archlab import ArchlabError
from archlab.cli import doctor
from archlab.runtime import cgroups, cpu_info, memory, process
from archlab.runtime.cgroups import MemoryLimit, cpu_limit, memory_limit

MB = 10**6
V2_MOUNT = "30 1 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "38 31 0:35 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
V1_CPU_MOUNT = "39 31 0:36 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


def tree(root: Path, groups: str, mounts: str, files: dict[str, object]) -> Path:
    """Write /proc/self/cgroup, /proc/self/mountinfo, and files below /sys/fs/cgroup."""
    written = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
    for name, text in {**written, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def test_version_2_in_a_container(tmp_path: Path) -> None:
    stat = (
        f"anon {400 * MB}\nfile {90 * MB}\ninactive_file {50 * MB}\nactive_file {30 * MB}\nslab_reclaimable {20 * MB}"
    )
    files = {"memory.max": 700 * MB, "memory.high": "max", "memory.current": 500 * MB, "memory.stat": stat}
    assert memory_limit(tree(tmp_path, "0::/", V2_MOUNT, files)) == MemoryLimit(700 * MB, 300 * MB)


def test_the_tightest_of_nested_groups(tmp_path: Path) -> None:
    files = {
        "user.slice/memory.max": 900 * MB,
        "user.slice/memory.current": 800 * MB,
        "user.slice/job/memory.max": 700 * MB,
        "user.slice/job/memory.current": 100 * MB,
        "other/memory.max": 1,
        "user.slice/cpu.max": "150000 100000",
        "user.slice/job/cpu.max": "max 100000",
    }
    root = tree(tmp_path, "0::/user.slice/job", V2_MOUNT, files)
    assert memory_limit(root) == MemoryLimit(900 * MB, 100 * MB)
    assert cpu_limit(root) == 1.5


def test_memory_high_counts(tmp_path: Path) -> None:
    files = {"memory.max": "max", "memory.high": 600 * MB, "memory.current": 700 * MB}
    assert memory_limit(tree(tmp_path, "0::/", V2_MOUNT, files)) == MemoryLimit(600 * MB, 0)


@pytest.mark.parametrize(
    ("mounted", "path", "below"),
    [
        ("/", "/docker/ab", "docker/ab/"),  # on the host
        ("/docker/ab", "/docker/ab", ""),  # in a container that sees its own group alone
        ("/", "/docker/not-here", ""),  # the path is that of the host
        ("/docker/ab", "/elsewhere", ""),
        ("/", "/../../ab", ""),
    ],
)
def test_version_1(mounted: str, path: str, below: str, tmp_path: Path) -> None:
    stat = f"inactive_file 1\ntotal_inactive_file {10 * MB}\ntotal_active_file {5 * MB}"
    files = {
        f"memory/{below}memory.limit_in_bytes": 700 * MB,
        f"memory/{below}memory.usage_in_bytes": 600 * MB,
        f"memory/{below}memory.memsw.limit_in_bytes": 9223372036854771712,
        f"memory/{below}memory.memsw.usage_in_bytes": 650 * MB,
        f"memory/{below}memory.stat": stat,
        f"cpu,cpuacct/{below}cpu.cfs_quota_us": 50000,
        f"cpu,cpuacct/{below}cpu.cfs_period_us": 100000,
    }
    mounts = "\n".join(each.format(root=mounted) for each in (V1_MOUNT, V1_CPU_MOUNT))
    root = tree(tmp_path, f"5:memory:{path}\n4:cpu,cpuacct:{path}\n0::/", mounts, files)
    assert memory_limit(root) == MemoryLimit(700 * MB, 115 * MB)
    assert cpu_limit(root) == 0.5


def test_swap_of_version_1_counts_where_it_is_the_tighter_limit(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": 700 * MB,
        "memory/memory.usage_in_bytes": 100 * MB,
        "memory/memory.memsw.limit_in_bytes": 700 * MB,
        "memory/memory.memsw.usage_in_bytes": 650 * MB,
    }
    root = tree(tmp_path, "5:memory:/", V1_MOUNT.format(root="/"), files)
    assert memory_limit(root) == MemoryLimit(700 * MB, 50 * MB)


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/", {"memory.max": "max", "memory.current": 5, "cpu.max": "max 100000"}),
        ("0::/", {"memory.max": "garbage", "cpu.max": "a b"}),
        ("0::/", {"cpu.max": "100000 0"}),
        ("", {}),
        ("5:memory:/\n4:cpu:/", {"memory/memory.limit_in_bytes": 2**63 - 4096, "cpu/cpu.cfs_quota_us": -1}),
        ("no colons\n::\n0::", {}),
    ],
)
def test_no_limit(groups: str, files: dict[str, object], tmp_path: Path) -> None:
    root = tree(tmp_path, groups, V2_MOUNT if groups.startswith("0") else "", files)
    assert memory_limit(root) is None
    assert cpu_limit(root) is None


def test_a_line_that_is_no_mount_is_passed_over(tmp_path: Path) -> None:
    files = {"memory/memory.limit_in_bytes": 700 * MB, "memory/memory.usage_in_bytes": 600 * MB}
    mounts = "\n".join(("38 31 - cgroup", V1_MOUNT.format(root="/")))
    assert memory_limit(tree(tmp_path, "5:memory:/", mounts, files)) == MemoryLimit(700 * MB, 100 * MB)


def test_a_system_without_groups(tmp_path: Path) -> None:
    assert (memory_limit(tmp_path), cpu_limit(tmp_path)) == (None, None)


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of 700 MB, 500 kB of which are left, and of the time of one core and a half."""
    files = {"memory.max": 700 * MB, "memory.current": 700 * MB - 500_000, "cpu.max": "150000 100000"}
    root = tree(tmp_path, "0::/", V2_MOUNT, files)
    for module, name in ((memory, "memory_limit"), (doctor, "memory_limit"), (doctor, "cpu_limit")):
        found = getattr(cgroups, name)(root)
        monkeypatch.setattr(module, name, lambda found=found: found)
    monkeypatch.setattr(cpu_info, "cpu_limit", lambda: cgroups.cpu_limit(root))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def test_a_step_that_the_group_has_no_room_for_is_refused(container: None) -> None:
    assert memory.available_memory(torch.device("cpu")) == 500_000
    message = "needs about 1 MB, and cpu has 500 kB free of the 700 MB of its control group; try"
    with pytest.raises(ArchlabError, match=message):
        memory.require_memory(MB, torch.device("cpu"))


def test_the_doctor_shows_both(container: None) -> None:
    findings = {finding.name: finding for check in (doctor._cpu, doctor._memory) for finding in check()}
    assert findings["memory"].value == "500 kB available"
    assert findings["memory limit (cgroup)"].value == "700 MB, of which 500 kB is left"
    assert findings["CPU limit (cgroup)"].value == "the time of 1.5 cores"
    assert findings["CPU"].value.endswith(", 2 cores")


def test_threads_follow_the_quota_unless_they_are_set(container: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(process.THREADS, "5")
    process.configure_process()
    assert os.environ[process.THREADS] == "5"
    monkeypatch.delenv(process.THREADS)
    process.configure_process()
    assert os.environ[process.THREADS] == "2"
