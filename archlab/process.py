"""What a process needs from its very beginning to be fast: the allocator's settings, and a kept compile cache.

`ARCHLAB_TUNE=off` leaves everything as it is.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from archlab.errors import ConfigError

SWITCH = "ARCHLAB_TUNE"
COMPUTING = ("train", "search", "eval", "generate", "check", "doctor")
# glibc gives every large block back to the kernel at once, and pays for its pages again at the next one.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def tuned() -> bool:
    """Tell whether settings may be made; raise ConfigError where the switch is neither on nor off."""
    value = os.environ.get(SWITCH, "on")
    if value not in ("on", "off"):
        raise ConfigError(SWITCH, f"{value!r} is neither on nor off")
    return value == "on"


def restart_tuned() -> None:
    """Start this command again, in the same process, with the settings that are read when a process begins.

    Does nothing where they are set, for a command that does not compute, and outside the command `archlab`.
    """
    is_command = Path(sys.argv[0]).stem == "archlab" and any(word in COMPUTING for word in sys.argv[1:])
    if not is_command or not tuned():
        return
    absent = {name: value for name, value in wanted().items() if name not in os.environ}
    if absent:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | absent)


def wanted() -> dict[str, str]:
    """Return the environment that a fast process begins with; what a user has set is theirs."""
    allocator = ALLOCATOR if platform.libc_ver()[0] == "glibc" else {}
    kept = compile_cache()
    return allocator | ({"TORCHINDUCTOR_CACHE_DIR": str(kept)} if kept else {})


def compile_cache() -> Path | None:
    """Return the user's folder for compiled models, which outlives a reboot; None where it cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "archlab" / "inductor"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
