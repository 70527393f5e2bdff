"""Performance settings of a process: malloc, and a persistent compile cache.

`ARCHLAB_TUNE=off` turns them off.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path

from archlab.errors import ConfigError
from archlab.runtime.cpu_info import num_cores, scheduled_cores
from archlab.runtime.user_cache import machine_key, usable_cache_dir
from archlab.runtime.user_dirs import ensure_user

TUNE = "ARCHLAB_TUNE"
CACHE = "TORCHINDUCTOR_CACHE_DIR"
THREADS = "OMP_NUM_THREADS"
# torch's allocator then requests transparent huge pages (2 MB) for large tensors. Not by default: glibc cuts each block
# that is aligned to them out of a larger one, and the remainders grew a process by a fifth in a dozen steps.
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
# How OpenMP's threads wait between two parallel loops. By default they spin, as if nobody else wanted their processors:
# where somebody does, each loop waits for threads that are not running (benchmarks/threads.py).
WAIT_POLICY = "OMP_WAIT_POLICY"
WAIT_VARIABLES = (WAIT_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # of all libraries, of GNU's, of LLVM's and Intel's
_KERNEL_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# glibc returns every large block to the kernel when it is freed, and the next allocation faults its pages in again.
# Parameters of mallopt (malloc.h): allocate no block by mmap, never trim the heap, grow it by 256 MB, join freed blocks
# of every size with their neighbors.
_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD, _MXFAST = -4, -1, -2, 1
_ALLOCATOR = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 2**28), (_MXFAST, 0))
# The part that glibc cuts off a block to align it goes to its cache of small ones, where it no longer joins the block
# when that is freed: the next tensor of the same size does not fit there, and a process grew to five times its tensors
# (glibc 2.36). Without the cache it does fit. glibc reads this when a process starts, and never again.
TUNABLES = "GLIBC_TUNABLES"
_NO_SMALL_CACHE = "glibc.malloc.tcache_count=0"


def env_switch(switch: str) -> bool:
    """Read an environment variable that is `on` or `off`, by default on; raise ConfigError for other values."""
    value = os.environ.get(switch, "on")
    if value not in ("on", "off"):
        raise ConfigError(switch, f"{value!r} is neither on nor off")
    return value == "on"


def tuning_enabled() -> bool:
    """Return whether archlab may change settings of the process."""
    return env_switch(TUNE)


def configure_process() -> None:
    """Apply the settings; variables that the user has set are kept.

    Call it before torch is imported, which reads its variables once.
    """
    ensure_user()
    if not tuning_enabled():
        return
    configure_malloc()
    # Threads beyond a quota of processor time do not only wait: the kernel pauses all of them for most of each period.
    if num_cores() < scheduled_cores():
        os.environ.setdefault(THREADS, str(num_cores()))
    if not any(name in os.environ for name in WAIT_VARIABLES):
        os.environ[WAIT_POLICY] = "passive"
    if not os.environ.get(CACHE):
        os.environ[CACHE] = str(inductor_dir())


def inductor_dir() -> Path:
    """Return the directory of Inductor's cache, which all processes of a user on like machines share."""
    # torch's key of a library says `-march=native`, whatever that means on a machine that shares the home.
    return usable_cache_dir("inductor") / machine_key()


def wait_setting() -> str | None:
    """Return how OpenMP's threads wait for work, as the variable that says so, or None if none does."""
    return next((f"{name}={os.environ[name]}" for name in WAIT_VARIABLES if name in os.environ), None)


def restart_without_small_cache() -> None:
    """Start this command again in the same process, once, if malloc then wastes less memory between tensors.

    Nothing happens where the command line is not the program of this process, or malloc is not archlab's to set.
    """
    if tuning_enabled() and _is_malloc_ours() and TUNABLES not in os.environ and _is_program():
        environment = {**os.environ, TUNABLES: _NO_SMALL_CACHE}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _is_program() -> bool:
    return bool(sys.executable) and sys.argv[0] in sys.orig_argv and Path(sys.argv[0]).is_file()


def _is_malloc_ours() -> bool:
    """Return whether malloc is glibc's, and the environment has no settings of its own for it."""
    of_user = any(name.startswith("MALLOC_") for name in os.environ)
    of_user = of_user or os.environ.get(TUNABLES, _NO_SMALL_CACHE) != _NO_SMALL_CACHE
    return not of_user and platform.libc_ver()[0] == "glibc"


@cache
def configure_malloc() -> bool:
    """Configure malloc to keep large blocks for reuse, and return whether it is configured.

    Only glibc's malloc can be, and it is not if the environment has settings of its own for it.
    """
    if not _is_malloc_ours():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) == 1 for name, value in _ALLOCATOR)


def has_huge_pages() -> bool:
    """Return whether large tensors use huge pages: torch requests them, and the kernel does not refuse."""
    try:
        allowed = "[never]" not in _KERNEL_SETTING.read_text()
    except OSError:
        return False
    return allowed and os.environ.get(HUGE_PAGES) == "1"
