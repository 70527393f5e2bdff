"""Checks of this machine and installation for problems that make archlab slow or fail."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import torch
from rich.table import Table
from rich.text import Text

from archlab.cli.terminal import foreign
from archlab.ops.native import OPERATIONS
from archlab.ops.native.library import unavailable_reason
from archlab.runtime.cgroups import cpu_limit, memory_limit
from archlab.runtime.cpu_info import cpu_flags
from archlab.runtime.environment import hardware_info
from archlab.runtime.matmul_precision import DEFAULT, measure_modes, select_matmul_precision
from archlab.runtime.memory import available_memory, format_bytes
from archlab.runtime.mixed_precision import MIN_SPEEDUP, bfloat16_speedup
from archlab.runtime.process import (
    HUGE_PAGES,
    TUNE,
    WAIT_POLICY,
    configure_malloc,
    has_huge_pages,
    tuning_enabled,
    wait_setting,
)
from archlab.runtime.toolchain import has_cpp_compiler

Status = Literal["ok", "note", "problem"]
GB = 10**9
_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}
_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@dataclass(frozen=True)
class Finding:
    """One fact about the machine, its status for archlab, and advice where there is any."""

    name: str
    value: str
    status: Status = "ok"
    advice: str = ""


def diagnose() -> list[Finding]:
    """Run every check; some take a short measurement."""
    return [finding for check in CHECKS for finding in check()]


def render(findings: list[Finding]) -> Table:
    """Return the findings as a table for a terminal."""
    table = Table("check", "value", "", "advice", box=None, pad_edge=False)
    for finding in findings:
        status = Text(finding.status, _STYLES[finding.status])
        table.add_row(finding.name, foreign(finding.value), status, foreign(finding.advice))
    return table


def _python() -> Iterator[Finding]:
    yield Finding("Python", f"{platform.python_version()} at {sys.executable}")


def _dependencies() -> Iterator[Finding]:
    for requirement in requires("archlab") or []:
        if "extra ==" not in requirement:
            yield _package(requirement, "problem", f"pip install '{requirement}'")
    yield _package("transformers", "note", "only needed to compare with its models: pip install transformers")


def _package(requirement: str, absent: Status, advice: str) -> Finding:
    name = requirement.partition(">=")[0]
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "missing", absent, advice)


def _cpu() -> Iterator[Finding]:
    facts = hardware_info()
    cores, threads = int(facts["cores"]), torch.get_num_threads()
    yield Finding("system", str(facts["system"]))
    yield Finding("CPU", f"{facts['processor']}, {cores} cores")
    advice = "" if threads == cores else f"OMP_NUM_THREADS={cores} uses every core"
    yield Finding("threads", str(threads), "note" if advice else "ok", advice)
    yield _idle_threads()
    quota = cpu_limit()
    if quota is not None:
        yield Finding("CPU limit (cgroup)", f"the time of {quota:g} cores")
    features = [name for name in _FEATURES if name in cpu_flags()]
    yield Finding("CPU features", ", ".join(features) or torch.backends.cpu.get_cpu_capability())


def _idle_threads() -> Finding:
    setting = wait_setting()
    if setting == f"{WAIT_POLICY}=passive":
        return Finding("threads that wait", f"sleep ({setting})")
    advice = f"{WAIT_POLICY}=passive is several times as fast beside other processes"
    return Finding("threads that wait", f"spin ({setting or 'the default'})", "note", advice)


def _accelerator() -> Iterator[Finding]:
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        yield Finding("GPU", f"{properties.name}, {format_bytes(properties.total_memory)}")
        yield _package("triton", "problem", "torch.compile needs it on a GPU: pip install triton")
    elif shutil.which("nvidia-smi") or shutil.which("rocm-smi"):
        yield Finding(
            "GPU", f"torch {torch.__version__} cannot use it", "problem", "install torch for this GPU's driver"
        )
    else:
        yield Finding("GPU", "none", "note", "training runs on the CPU: small models only")


def _compiler() -> Iterator[Finding]:
    if has_cpp_compiler():
        yield Finding("C++ compiler", "found")
    else:
        yield Finding("C++ compiler", "missing", "note", "install g++ so that long runs on the CPU are compiled")


def _native() -> Iterator[Finding]:
    problem = unavailable_reason()
    if problem:
        yield Finding(
            "C++ kernels", problem, "note", "recurrences and attention run in PyTorch, about ten times slower"
        )
    elif all(module.is_available() for module in OPERATIONS.values()):
        yield Finding("C++ kernels", "compiled and cached")
    else:
        advice = "recurrences and attention run in PyTorch; check that the compiler builds a shared library"
        yield Finding("C++ kernels", "the compiler fails", "problem", advice)


def _check_tuning() -> Iterator[Finding]:
    if not tuning_enabled():
        yield Finding("tuning", f"{TUNE}=off", "note", "unset it to train faster")
        return
    kept = configure_malloc()
    advice = "" if kept else "every step pays the page faults of large blocks again"
    value = "keeps large blocks" if kept else "default, or set by the environment"
    yield Finding("allocator", value, "ok" if kept else "note", advice)
    huge = has_huge_pages()
    advice = f"without {HUGE_PAGES}=1 malloc loses less memory between tensors" if huge else ""
    yield Finding("huge pages", "under large tensors" if huge else "none", "note" if huge else "ok", advice)
    for mode in measure_modes():
        is_selected = mode.name == select_matmul_precision()
        value = f"{mode.flops_per_s / 1e9:.0f} GFLOP/s, error {mode.error:.0e}{', selected' if is_selected else ''}"
        yield Finding(f"float32 matmul, {'default' if mode.name == DEFAULT else mode.name}", value)


def _precision() -> Iterator[Finding]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    speedup = bfloat16_speedup(device)
    advice = "" if speedup >= MIN_SPEEDUP else "precision: auto trains in float32 here"
    yield Finding(
        "bfloat16",
        f"{speedup:.2f} times as fast as float32 on {device}",
        "ok" if speedup >= MIN_SPEEDUP else "note",
        advice,
    )


def _memory() -> Iterator[Finding]:
    free = available_memory(torch.device("cpu"))
    advice = "" if free >= 2 * GB else "lower train.batch_size or train.context"
    yield Finding("memory", f"{format_bytes(free)} available", "note" if advice else "ok", advice)
    group = memory_limit()
    if group is not None:
        value = f"{format_bytes(group.limit)}, of which {format_bytes(group.available)} is left"
        yield Finding("memory limit (cgroup)", value, advice="a process that exceeds it is killed")


def _disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    status: Status = "problem" if free < GB else "note" if free < 10 * GB else "ok"
    advice = "" if status == "ok" else "checkpoints may not fit: keep fewer (train.keep_checkpoints)"
    yield Finding("disk", f"{format_bytes(free)} free in {Path.cwd()}", status, advice)


def _cache() -> Iterator[Finding]:
    from archlab.runtime.private_apis import inductor_cache_dir

    try:
        folder = inductor_cache_dir()
    except OSError as error:
        folder = str(error.filename)
    if os.access(folder, os.W_OK):
        yield Finding("compile cache", folder)
    else:
        advice = "set TORCHINDUCTOR_CACHE_DIR to a directory of yours"
        yield Finding("compile cache", f"{folder} is not writable", "problem", advice)


def _tokens() -> Iterator[Finding]:
    from archlab.cli.prepared_table import describe_cache

    value, advice = describe_cache()
    yield Finding("token cache", value, advice=advice)


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _dependencies,
    _cpu,
    _accelerator,
    _compiler,
    _native,
    _check_tuning,
    _precision,
    _memory,
    _disk,
    _cache,
    _tokens,
)
