"""What a command's process needs to be fast: memory that is kept and in large pages, and a compile cache that lasts.

`ARCHLAB_TUNE=off` leaves everything as it is.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

from archlab.errors import ConfigError

TUNE = "ARCHLAB_TUNE"
CACHE = "TORCHINDUCTOR_CACHE_DIR"
# By this torch asks the kernel for pages of 2 MB under its large tensors: fewer of them to bring and to look up.
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
_KERNEL_SAYS = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# glibc gives every large block back to the kernel at once, and pays for its pages again at the next one. Numbers of
# its mallopt: no block is mapped by itself, freed memory is kept however much, and is asked for in large pieces.
_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD = -4, -1, -2
_ALLOCATOR = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 2**28))


def env_switch(switch: str) -> bool:
    """Tell whether a variable of the environment is on, as it is unset; raise ConfigError for what is not on or off."""
    value = os.environ.get(switch, "on")
    if value not in ("on", "off"):
        raise ConfigError(switch, f"{value!r} is neither on nor off")
    return value == "on"


def tuning_enabled() -> bool:
    """Tell whether settings may be made."""
    return env_switch(TUNE)


def configure_process() -> None:
    """Make the settings, before torch is imported; what a user has set in the environment is theirs."""
    if not tuning_enabled():
        return
    configure_malloc()
    os.environ.setdefault(HUGE_PAGES, "1")
    folder = cache_dir("inductor")
    if folder is not None:
        os.environ.setdefault(CACHE, str(folder))


@cache
def configure_malloc() -> bool:
    """Have the allocator keep large blocks, and tell whether it was told to.

    glibc's alone can be told, and it is left alone where the environment has settings for it.
    """
    set_by_user = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if set_by_user or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) == 1 for name, value in _ALLOCATOR)


def has_huge_pages() -> bool:
    """Tell whether large tensors lie in large pages: torch asks for them, and the kernel gives them to who asks."""
    try:
        given = "[never]" not in _KERNEL_SAYS.read_text()
    except OSError:
        return False
    return given and os.environ.get(HUGE_PAGES) == "1"


def cache_dir(name: str) -> Path | None:
    """Return a folder of the user's cache, which outlives a reboot; None where it cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "archlab" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
