"""Where a library that was built for this machine is kept, and under which name."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from functools import cache
from pathlib import Path

from archlab.runtime.cpu_info import cpu_flags
from archlab.runtime.process import cache_dir


def build_cache_path(kind: str, name: str, *parts: str) -> Path:
    """Return where what these parts make on this processor lies.

    In the user's cache, or, where that cannot be written, in a folder of this process.
    """
    machine = (platform.machine(), *sorted(cpu_flags()))
    key = hashlib.sha256("\0".join((*parts, *machine)).encode()).hexdigest()[:20]
    return (cache_dir(kind) or _process_dir(kind)) / f"{name}-{key}.so"


@cache
def _process_dir(kind: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"archlab-{kind}-"))
