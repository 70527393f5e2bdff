"""The database of a study: opened by its URL, waited for while it is away, and its errors in one line."""

from __future__ import annotations

import errno
import logging
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages.journal import JournalStorage
from sqlalchemy import exc

from archlab.errors import MachineError, one_line, redact
from archlab.runtime.private_apis import cached_storage
from archlab.searching.space.storage_url import (
    DRIVERS,
    PASSWORD,
    connection_url,
    is_sqlite,
    read_only_sqlite,
    secrets_of,
    with_driver,
)
from archlab.searching.study.journal import JournalFile

PATIENCE_S = 60.0
PAUSE_S = 1.0
_SQLITE_BUSY_S = 2  # for SQLite itself to wait in one attempt: short, so that users soon see the message
# PendingRollbackError: Optuna repeats a query by itself in the transaction that a lost connection has ended.
_TRANSIENT = (
    exc.OperationalError,
    exc.InterfaceError,
    exc.TimeoutError,
    exc.DisconnectionError,
    exc.PendingRollbackError,
)
# Errors that waiting does not fix, although the drivers raise OperationalError for them.
_PERMANENT = ("password", "authentication", "access denied", "does not exist", "unknown database", "no such", "denied")
# Of a journal whose file server is away.
_AWAY = {
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.EBUSY, errno.EAGAIN),
    *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ECONNRESET, errno.EREMOTEIO),
}
_logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class DatabaseError(MachineError):
    """The database of a study that cannot be used: the failure of a machine, and of no trial."""


class PatientDatabase:
    """Calls to one database, repeated while it is away for up to PATIENCE_S seconds; `name` is its URL in messages."""

    def __init__(self, name: str, secrets: list[str]) -> None:
        self.name, self.secrets = name, secrets

    def call(self, function: Callable[[], Answer]) -> Answer:
        """Return a function's result; raise DatabaseError for an error of the database that remains."""
        started: float | None = None
        while True:
            try:
                result = function()
            except (exc.SQLAlchemyError, StorageInternalError, ImportError, OSError) as error:
                if started is None and _is_transient(error):
                    started = monotonic()
                    _logger.warning("%s: waiting %.0f s for it: %s", self.name, PATIENCE_S, self._reason(error))
                if started is None or not _is_transient(error) or monotonic() - started >= PATIENCE_S:
                    raise self._error(error) from self._cause(error)
                sleep(PAUSE_S)
            else:
                if started is not None:
                    _logger.warning("%s: is back after %.0f s", self.name, monotonic() - started)
                return result

    def _error(self, error: Exception) -> DatabaseError:
        return DatabaseError(f"{self.name}: cannot be used: {self._reason(error)}{self._advice(error)}")

    def _advice(self, error: Exception) -> str:
        kind = self.name.partition(":")[0]
        if isinstance(_innermost(error), ImportError) and kind in DRIVERS:
            return f"; pip install 'archlab[{'mysql' if kind == 'mariadb' else kind}]'"
        return f"; its password is read from {PASSWORD}" if "password" in str(_innermost(error)).lower() else ""

    def _reason(self, error: Exception) -> str:
        return self._without_secrets(one_line(_innermost(error)))

    def _cause(self, error: Exception) -> Exception | None:
        """Return the error, for the traceback that `--debug` shows, unless that would show a password."""
        text = "".join(traceback.format_exception(error))
        return error if self._without_secrets(text) == text else None

    def _without_secrets(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return redact(text)


class _Storage(BaseStorage):
    def __init__(self, storage: BaseStorage, database: PatientDatabase) -> None:
        self.storage, self.database = storage, database


def _with_retries(name: str) -> Callable[..., Any]:
    def method(self: _Storage, *args: Any, **kwargs: Any) -> Any:
        return self.database.call(lambda: getattr(self.storage, name)(*args, **kwargs))

    return method


def _public_methods() -> Iterator[str]:
    return (name for name, value in vars(BaseStorage).items() if callable(value) and not name.startswith("_"))


# Every method of Optuna's interface, by its name: one that a release adds is waited for like the others.
PatientStorage = type("PatientStorage", (_Storage,), {name: _with_retries(name) for name in _public_methods()})


def open_database(public_url: str, name: str = "", *, read_only: bool = False) -> BaseStorage:
    """Return Optuna's storage of a URL without its password; raise DatabaseError if it cannot be used.

    `name` replaces the URL in messages; `read_only` creates neither a file nor tables.
    """
    url = with_driver(connection_url(public_url))
    if read_only and is_sqlite(url):
        url = read_only_sqlite(url)
    database = PatientDatabase(name or public_url, secrets_of(url))
    options = {"connect_args": {"timeout": _SQLITE_BUSY_S}} if is_sqlite(url) else {"pool_pre_ping": True}
    # Optuna fills in {SCHEMA_VERSION}, and would take other braces, as in a password, for fields.
    template = url.replace("{", "{{").replace("}", "}}")
    open_it = partial(RDBStorage, template, engine_kwargs=options, skip_table_creation=read_only)
    try:
        storage = database.call(lambda: cached_storage(open_it()))
    except ValueError:  # of a port that is not a number; its text may hold a part of the password
        raise DatabaseError(f"{database.name}: cannot be used: its port is not a number") from None
    return PatientStorage(storage, database)


def open_journal(file: Path) -> BaseStorage:
    """Return Optuna's storage of a file that workers share; raise DatabaseError if it cannot be used."""
    database = PatientDatabase(str(file), [])
    return PatientStorage(database.call(lambda: JournalStorage(JournalFile(file))), database)


def _innermost(error: BaseException) -> BaseException:
    """Return the database driver's own error: SQLAlchemy's adds the statement with its values."""
    if isinstance(error, StorageInternalError | ImportError) and error.__cause__ is not None:
        return _innermost(error.__cause__)
    return getattr(error, "orig", None) or error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _AWAY
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        return _is_transient(error.__cause__)
    if getattr(error, "connection_invalidated", False):
        return True
    text = str(_innermost(error)).lower()
    if isinstance(getattr(error, "orig", None), sqlite3.Error):
        return "locked" in text or "busy" in text
    return isinstance(error, _TRANSIENT) and not any(words in text for words in _PERMANENT)
