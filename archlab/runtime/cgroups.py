"""Limits of control groups (cgroups, version 1 and 2), by which containers and schedulers divide a machine.

The kernel kills a process whose group exceeds its memory, whatever the machine has left, and pauses one that exceeds
its share of processor time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
_UNLIMITED = 2**60  # version 1 writes the largest multiple of a page for no limit
# By version of the interface: (limit, usage). Of version 1's memsw both count memory and swap together. Exceeding
# memory.high does not kill, but slows a process until it hardly runs. Swap (memory.swap.max) is not counted, as
# /proc/meminfo's MemAvailable does not: a model that trains there hardly runs either.
_MEMORY = {
    1: (
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
    ),
    2: (("memory.max", "memory.current"), ("memory.high", "memory.current")),
}
# Of memory.stat: memory that the kernel reclaims before it kills, which /proc/meminfo counts as available too.
_RECLAIMABLE = {
    1: ("total_inactive_file", "total_active_file"),
    2: ("inactive_file", "active_file", "slab_reclaimable"),
}


@dataclass(frozen=True)
class MemoryLimit:
    """The tightest limit on memory of this process's groups, in bytes, and the rest to allocate."""

    limit: int
    available: int


def memory_limit(root: Path = ROOT) -> MemoryLimit | None:
    """Return the limit that leaves the least memory, or None if there is none; `root` is where /proc and /sys are."""
    limits = [limit for version, folder in _groups("memory", root) for limit in _memory_limits(version, folder)]
    return min(limits, key=lambda limit: limit.available, default=None)


def cpu_limit(root: Path = ROOT) -> float | None:
    """Return the number of processors whose time this process's groups may use, or None if there is no limit."""
    quotas = [quota for version, folder in _groups("cpu", root) if (quota := _cpu_quota(version, folder))]
    return min(quotas, default=None)


def _memory_limits(version: int, folder: Path) -> Iterator[MemoryLimit]:
    reclaimable = sum(_stat(folder / "memory.stat").get(name, 0) for name in _RECLAIMABLE[version])
    for limit_name, usage_name in _MEMORY[version]:
        limit, usage = _number(folder / limit_name), _number(folder / usage_name)
        if limit is not None and limit < _UNLIMITED:
            # Without a usage, such as in a sandbox that hides it, all of the limit is taken to be available.
            used = max((usage or 0) - reclaimable, 0)
            yield MemoryLimit(limit, max(limit - used, 0))


def _cpu_quota(version: int, folder: Path) -> float | None:
    if version == 2:
        quota, _, period = _read(folder / "cpu.max").partition(" ")
    else:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    with suppress(ValueError, ZeroDivisionError):  # "max" is not a number
        share = int(quota) / int(period)
        return share if share > 0 else None  # version 1 writes -1 for no limit
    return None


def _groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Yield version and directory of each group that this process is in, and of those around it."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if number == "0" and not controllers else 1
        if version == 2 or controller in controllers.split(","):
            for mount, mounted in _mounts(version, controller, root):
                yield from ((version, folder) for folder in _from_mount_to_group(mount, mounted, path))


def _from_mount_to_group(mount: Path, mounted: str, path: str) -> Iterator[Path]:
    yield mount
    # In a container the mount shows the container's group as its root, or a path that exists outside alone.
    inside = PurePosixPath(path)
    with suppress(ValueError):
        inside = inside.relative_to(mounted) if mounted != "/" else inside.relative_to("/")
        if ".." not in inside.parts:
            for depth in range(1, len(inside.parts) + 1):
                yield mount.joinpath(*inside.parts[:depth])


def _mounts(version: int, controller: str, root: Path) -> Iterator[tuple[Path, str]]:
    """Yield each mount point of the hierarchy of a controller, and the group that is mounted there."""
    found = False
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        is_same = kind[0] == "cgroup2" if version == 2 else kind[0] == "cgroup" and controller in kind[2].split(",")
        if is_same:
            found = True
            yield root / fields[4].lstrip("/"), fields[3]
    if not found:
        yield root / "sys/fs/cgroup" / ("" if version == 2 else controller), "/"


def _stat(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in _read(file).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _number(file: Path) -> int | None:
    text = _read(file)
    return int(text) if text.isdecimal() else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
