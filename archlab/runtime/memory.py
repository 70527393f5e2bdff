"""Available memory of a device."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

from archlab.errors import ArchlabError
from archlab.runtime.cgroups import memory_limit

# Bytes of malloc's heap for a byte of tensors at a training step's peak, of which tensors of many sizes leave gaps that
# later ones do not fit in, with the settings of `archlab train` (runtime/process.py). A fit to four architectures in
# float32, together with the memory of a process without tensors, compared with others (benchmarks/plan.py memory).
CPU_HEAP_RATIO = 1.05


def cpu_heap_bytes(tensor_bytes: int) -> int:
    """Return the bytes that a process takes on a CPU for a training step whose tensors take `tensor_bytes`."""
    return round(CPU_HEAP_RATIO * tensor_bytes)


def available_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on a device, by this machine and by this process's control group."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    group = memory_limit()
    machine = _machine_memory()
    return machine if group is None else min(machine, group.available)


def _machine_memory() -> int:
    # MemAvailable and not MemFree: the page cache counts as available.
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def most_used_memory(device: torch.device) -> int:
    """Return the most bytes that this process has used so far: of tensors on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # Not getrusage's, which begins with the memory of the parent process at the start.
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def require_memory(needed: int, device: torch.device, *, fixed: int = 0, processes: int = 1) -> None:
    """Raise ArchlabError if a training step needs more memory than is available.

    `fixed` of the bytes are weights, gradients and moments, which no setting makes fewer; so many `processes` of this
    machine need as much each, and share it unless a GPU is one's own.
    """
    processes = processes if device.type == "cpu" else 1
    free = available_memory(device)
    if needed * processes <= free:
        return
    group = memory_limit() if device.type == "cpu" else None
    limit = f" of the {format_bytes(group.limit)} of its control group" if group and group.available <= free else ""
    advice = "try a smaller train.batch_size or train.context, or train.checkpoint_activations=true"
    advice = why_no_setting_helps(fixed * processes, free) or advice
    each = f" in each of {processes} processes" if processes > 1 else ""
    raise ArchlabError(
        f"a training step needs about {format_bytes(needed)}{each}, and {device} has {format_bytes(free)} free{limit}; "
        f"{advice}"
    )


def why_no_setting_helps(fixed: int, free: int) -> str:
    """Return a message if `fixed` bytes of weights, gradients and moments exceed the memory; else ""."""
    if fixed <= free:
        return ""
    alone = f"no setting helps: weights, gradients and moments alone are {format_bytes(fixed)}"
    return f"{alone}; divide them over at least {-(-fixed // free)} such devices (parallel.shard)"


def format_bytes(size: float) -> str:
    """Format a number of bytes with a decimal unit, as in "1.5 GB"."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} PB"
