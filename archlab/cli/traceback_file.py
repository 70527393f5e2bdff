"""Tracebacks of unforeseen errors, as files for a bug report."""

from __future__ import annotations

import os
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from archlab.errors import redact
from archlab.runtime.user_dirs import private_temp_dir, user_dir
from archlab.storage.files import write_bytes
from archlab.text import visible

KEEP = 20


def write_traceback(error: BaseException) -> Path | None:
    """Write the traceback of an exception into the user's state directory; return None if that cannot be done."""
    with suppress(Exception):  # of a full disk, or of memory or a stack that is exhausted: there is no file then
        text = f"archlab {' '.join(map(repr, sys.argv[1:]))}\n\n{''.join(traceback.format_exception(error))}"
        for folder in (user_dir("XDG_STATE_HOME", ".local/state", "archlab", "errors"), private_temp_dir()):
            if folder is not None:
                return _write(folder, redact(text))
    return None


def _write(folder: Path, text: str) -> Path:
    for old in sorted(folder.glob("error-*.txt"))[: -KEEP + 1]:
        old.unlink(missing_ok=True)
    file = folder / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    lines = (visible(line, keep="\t") for line in text.split("\n"))
    write_bytes(file, "\n".join(lines).encode(errors="backslashreplace"))
    file.chmod(0o600)
    return file
