"""Where a library that was built for this machine is kept, and under which name."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from functools import cache
from pathlib import Path

from archlab.runtime.cpu_info import processor_features
from archlab.runtime.process import cache_folder


def built_file(kind: str, name: str, *parts: str) -> Path:
    """Return where what these parts make on this processor lies.

    In the user's cache, or, where that cannot be written, in a folder of this process.
    """
    machine = (platform.machine(), *sorted(processor_features()))
    key = hashlib.sha256("\0".join((*parts, *machine)).encode()).hexdigest()[:20]
    return (cache_folder(kind) or _own_folder(kind)) / f"{name}-{key}.so"


@cache
def _own_folder(kind: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"archlab-{kind}-"))
