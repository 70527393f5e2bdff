"""Cache paths of shared libraries that are compiled on this machine."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from functools import cache
from pathlib import Path

from archlab.runtime.cpu_info import cpu_flags
from archlab.runtime.process import cache_dir


def build_cache_path(kind: str, name: str, *parts: str) -> Path:
    """Return the cache path of a library built from these inputs on this CPU.

    It lies in the user's cache or, if that cannot be written, in a temporary directory of this process.
    """
    # The CPU's flags are part of the key: a home directory may be shared by machines with other instruction sets.
    machine = (platform.machine(), *sorted(cpu_flags()))
    key = hashlib.sha256("\0".join((*parts, *machine)).encode()).hexdigest()[:20]
    return (cache_dir(kind) or _process_dir(kind)) / f"{name}-{key}.so"


@cache
def _process_dir(kind: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"archlab-{kind}-"))
