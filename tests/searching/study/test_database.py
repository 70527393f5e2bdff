import sqlite3
import traceback
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState
from search_helpers import pretend, replace_costs, replace_training, search, write_space
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError

from archlab.searching.space.load_space import load_space
from archlab.searching.space.storage_url import sqlite_url, take_password
from archlab.searching.study import database, study
from archlab.searching.study.database import DatabaseError, PatientDatabase, open_database
from archlab.searching.study.study import open_study


class ServerError(Exception):
    """A driver's error."""


def away(text: str = 'connection to server at "db" failed: Connection refused\n\tIs the server running?') -> Exception:
    return OperationalError("SELECT 1", {}, ServerError(text))


def within_optuna(error: Exception) -> Exception:
    wrapped = StorageInternalError("An exception is raised during the commit.")
    wrapped.__cause__ = error
    return wrapped


class Failing:
    """A call that fails a number of times, and then answers."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error, self.calls = times, error, 0

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "answer"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that pass while a database is waited for, and at no other time."""
    now = [0.0]
    monkeypatch.setattr(database, "monotonic", lambda: now[0])
    monkeypatch.setattr(database, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.mark.parametrize(
    "error",
    [
        away(),
        within_optuna(away()),
        within_optuna(PendingRollbackError("Can't reconnect")),
        away("database system is starting up"),
    ],
)
def test_a_database_away_for_30_seconds_is_waited_for_with_one_message(
    error: Exception, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    call = Failing(30, error)
    assert PatientDatabase("postgresql://me@db/x", []).call(call) == "answer"
    assert 29 <= clock[0] <= 31
    waiting, back = (record.getMessage() for record in caplog.records)
    assert waiting.startswith("postgresql://me@db/x: waiting 60 s for it: ")
    assert "\n" not in waiting
    assert back == "postgresql://me@db/x: is back after 30 s"


def test_one_that_stays_away_ends_in_one_line(clock: list[float]) -> None:
    with pytest.raises(DatabaseError, match=r"db/x: cannot be used: connection .* Connection refused$"):
        PatientDatabase("postgresql://me@db/x", []).call(Failing(10**9, away()))
    assert 60 <= clock[0] < 62


@pytest.mark.parametrize(
    "error",
    [
        away('password authentication failed for user "me"'),
        away('database "x" does not exist'),
        OperationalError("", {}, sqlite3.OperationalError("database or disk is full")),
        OperationalError("", {}, sqlite3.OperationalError("unable to open database file")),
    ],
)
def test_what_waiting_does_not_mend_is_not_waited_for(error: Exception, clock: list[float]) -> None:
    call = Failing(10**9, error)
    with pytest.raises(DatabaseError):
        PatientDatabase("x", []).call(call)
    assert (call.calls, clock[0]) == (1, 0)


def test_errors_that_are_not_the_database_s_pass(clock: list[float]) -> None:
    with pytest.raises(KeyError):
        PatientDatabase("x", []).call(Failing(1, KeyError("no study")))


def test_a_password_is_in_no_message_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    url = "postgresql://me:hun{ter}2@db/x?sslpassword=geheim"
    public = take_password(url, "study.storage")
    database = PatientDatabase(public, ["hun{ter}2", "geheim"])
    for error in (away(f"{url} refused geheim"), away("the password hun{ter}2 authentication failed")):
        with pytest.raises(DatabaseError) as caught:
            database.call(Failing(10**9, error))
        shown = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert "hun" not in shown
        assert "geheim" not in shown
    assert "ARCHLAB_STORAGE_PASSWORD" in str(caught.value)


def test_a_driver_that_is_not_installed_is_one_line() -> None:
    for url in ("redis://:geheim@host:6379/0", "postgresql+nosuch://me:geheim@h/d", "mysql://me:geheim@h:port/d"):
        with pytest.raises(DatabaseError, match="cannot be used: ") as caught:
            open_database(take_password(url, "study.storage"))
        assert "geheim" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "extra"),
    [("postgresql://me@h/d", "postgresql"), ("mysql://me@h/d", "mysql"), ("mariadb://me@h/d", "mysql")],
)
def test_a_driver_of_an_extra_is_named_with_the_extra(url: str, extra: str) -> None:
    missing = Failing(10**9, ImportError("No module named 'driver'"))
    with pytest.raises(
        DatabaseError, match=rf"{url}: cannot be used: No module named 'driver'; pip install 'archlab\[{extra}\]'"
    ):
        PatientDatabase(url, []).call(missing)
    assert missing.calls == 1


def test_a_connection_that_the_server_ended_is_made_again(clock: list[float]) -> None:
    call = Failing(
        1, DBAPIError("SELECT 1", {}, ServerError("password cache was flushed"), connection_invalidated=True)
    )
    assert PatientDatabase("mysql://me@h/d", []).call(call) == "answer"
    assert (call.calls, clock[0]) == (2, database.PAUSE_S)


def test_a_locked_file_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "_SQLITE_BUSY_S", 0)
    storage = open_database(sqlite_url(tmp_path / "study.db"), name="study.db")
    other = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    other.execute("begin exclusive")
    monkeypatch.setattr(database, "sleep", lambda _: other.execute("rollback"))
    storage.create_new_study([StudyDirection.MINIMIZE], "s")
    assert "study.db: waiting 60 s for it: database is locked" in caplog.text


@pytest.mark.slow
def test_a_trial_is_not_to_blame_for_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, pretend())
    replace_costs(monkeypatch)
    monkeypatch.setattr(study, "MAX_ATTEMPTS", 1)
    file, folder = write_space(tmp_path), tmp_path / "s"
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(RDBStorage, "set_trial_intermediate_value", Failing(10**9, away()))
            with pytest.raises(DatabaseError, match=r"s/study.db: cannot be used"):
                search(file, folder, trials=1)
    trials = open_study(load_space(file), folder).get_trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.RUNNING]
    assert search(file, folder, trials=1).best_trial == 2
