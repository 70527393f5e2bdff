"""The lock of a run's directory: one process at a time writes there. Readers need none."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from archlab.errors import ArchlabError
from archlab.storage.locks import lock

_log = logging.getLogger(__name__)
_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's directory, created if missing; raise ArchlabError if another process trains there."""
    with ExitStack() as held:
        try:
            acquired = held.enter_context(lock(folder / ".run.lock", wait=False))
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise ArchlabError(f"{folder}: cannot be written: {error.strerror}") from error
            # Some file systems of clusters have no locks; a run there is worth more than the protection.
            _log.warning("%s: its file system has no locks; let no other process train here", folder)
            acquired = True
        if not acquired:
            raise ArchlabError(f"{folder}: another process trains here; stop it first, or name another directory")
        yield
