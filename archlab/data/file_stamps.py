"""Detection of changed files without reading them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Two writes within a tick of a file system's clock leave one time: 4 ms here, a second or two on network drives.
_TICK_S = 2.0


class Stamp(NamedTuple):
    """A digest of files' sizes and times; it is settled if any later change alters it."""

    digest: str
    is_settled: bool


def stamp_files(files: Sequence[tuple[str, Path]], *settings: str) -> Stamp:
    """Return a digest of files, given with their names, that changes when one is written, replaced or renamed.

    It is not settled if a file was changed within the resolution of its times.
    """
    digest, newest = hashlib.sha256(repr(settings).encode(errors="surrogatepass")), 0.0
    now = time.time()
    for name, path in files:
        try:
            found = os.stat(path)
        except OSError:  # reading it raises the error
            return Stamp("", False)
        newest = max(newest, found.st_ctime)
        # The time of the last change of the inode too: a program can set the other one back.
        facts = (name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(repr(facts).encode(errors="surrogatepass"))
    return Stamp(digest.hexdigest(), now - newest >= _TICK_S)
