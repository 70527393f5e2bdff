"""Choices measured on this machine, made once for all processes of a user.

Measured again in each process, two ways of about the same speed would take turns, and with them the last digits of a
run: it would not be resumed bit for bit.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import torch

from archlab.runtime.user_cache import machine_key, usable_cache_dir


def choose_once(name: str, choices: Collection[str], measure: Callable[[], str]) -> str:
    """Return the stored choice for this machine and torch, or else the result of `measure`, which is stored.

    Processes that measure at the same time all return the choice that the first of them has stored.
    """
    file = usable_cache_dir("measured") / f"{name}-torch-{torch.__version__}-{machine_key()}"
    kept = _read(file)
    if kept in choices:
        return kept
    chosen = measure()
    if kept:  # a choice unknown to this version, or a damaged file
        with suppress(OSError):
            file.unlink()
    return _keep(file, chosen)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _keep(file: Path, chosen: str) -> str:
    try:
        with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=".measuring-", encoding="utf-8") as partial:
            partial.write(chosen)
            partial.flush()
            os.link(partial.name, file)  # unlike a rename it fails where another process was first
    except FileExistsError:
        return _read(file) or chosen
    except OSError:  # a full disk, or a file system without links: it is measured again next time
        return chosen
    return chosen
