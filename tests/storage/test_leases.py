import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from archlab.storage.lease_file import LeaseFile
from archlab.storage.lease_observer import LeaseObserver, read_leases
from archlab.storage.leases import Lease, LeaseLost, declare_lost, require_not_lost
from archlab.storage.locks import lock

OTHER_KERNEL = "of another machine"


class Clock:
    """Seconds of a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The observer's clock."""
    return Clock()


def watch(observer: LeaseObserver, clock: Clock, seconds: float, step: float = 5.0) -> str:
    """Look every few seconds, and return what the observer says of the one lease at last."""
    for _ in range(int(seconds / step)):
        clock.now += step
        observer.look()
    (view,) = observer.look().values()
    return view.dead


def remote(folder: Path, **fields: object) -> LeaseFile:
    lease = LeaseFile("a", boot=OTHER_KERNEL, lease_s=60.0, **fields)  # type: ignore[arg-type]
    lease.write(folder)
    return lease


def test_a_holder_lives_while_its_counter_changes_whatever_its_clock_and_lock(tmp_path: Path, clock: Clock) -> None:
    lease, observer = remote(tmp_path), LeaseObserver(tmp_path, clock=clock)
    for counter in range(1, 20):
        assert watch(observer, clock, 30) == ""
        lease = replace(lease, counter=counter)
        lease.write(tmp_path)
        os.utime(tmp_path / "a.json", (counter, counter))  # a file server whose clock is of 1970


def test_a_counter_that_stands_still_for_the_time_of_the_lease_is_that_of_a_dead_holder(
    tmp_path: Path, clock: Clock
) -> None:
    remote(tmp_path)
    observer = LeaseObserver(tmp_path, clock=clock)
    with lock(tmp_path / "a.lock", wait=True):  # as a suspended process, or a child of a dead one, still holds it
        observer.look()
        assert watch(observer, clock, 55) == ""
        assert watch(observer, clock, 5) == "it has not answered for 60 s"


def test_an_observer_that_was_suspended_itself_has_watched_nobody(tmp_path: Path, clock: Clock) -> None:
    remote(tmp_path)
    observer = LeaseObserver(tmp_path, clock=clock)
    observer.look()
    clock.now += 10**6
    (view,) = observer.look().values()
    assert view.is_alive
    assert watch(observer, clock, 40) == ""
    assert watch(observer, clock, 5) != ""


def test_a_file_that_cannot_be_read_is_silent_and_not_dead_at_once(tmp_path: Path, clock: Clock) -> None:
    remote(tmp_path, counter=3)
    observer = LeaseObserver(tmp_path, clock=clock)
    observer.look()
    (tmp_path / "a.json").write_text("")
    assert watch(observer, clock, 30) == ""
    assert watch(observer, clock, 30) != ""
    assert LeaseObserver(tmp_path).look()["a"].is_alive
    (tmp_path / "a.json").write_text('{"id": "a", "unheard": 1}')
    assert LeaseObserver(tmp_path).look()["a"].lease_s == 60


@pytest.mark.parametrize(
    "content",
    [
        '{"id": "b"}',
        '{"host": "x"}',
        '{"id": 3}',
        '{"id": "a", "lease_s": null}',
        '{"id": "a", "lease_s": "60"}',
        '{"id": "a", "since": 1}',
        '{"id": "a", "counter": "1"}',
        "[1]",
        "[" * 10**5,
    ],
)
def test_a_file_that_is_no_lease_or_another_one_s_stops_no_observer(tmp_path: Path, clock: Clock, content: str) -> None:
    observer = LeaseObserver(tmp_path, clock=clock)
    (tmp_path / "a.json").write_text(content)
    assert observer.look()["a"].is_alive
    assert watch(observer, clock, 60) == "it has not answered for 60 s"


def test_a_lock_that_the_same_kernel_has_released_says_so_at_once(tmp_path: Path) -> None:
    LeaseFile("a", boot="this").write(tmp_path)
    here, elsewhere = (LeaseObserver(tmp_path, boot=boot) for boot in ("this", "another"))
    assert here.look()["a"].is_alive, "there is no lock, as on a file server that shows a directory piece by piece"
    with lock(tmp_path / "a.lock", wait=True):
        assert here.look()["a"].is_alive
    assert here.look()["a"].dead == "its process has ended"
    assert elsewhere.look()["a"].is_alive


def test_without_locks_a_lease_lives_by_its_counter_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", _no_locks)
    with Lease(tmp_path) as lease:
        assert json.loads((tmp_path / f"{lease.id}.json").read_text())["boot"] == ""
        monkeypatch.undo()
        assert read_leases(tmp_path)[0].is_alive, "its lock is free, and says nothing"
    assert not list(tmp_path.iterdir())


def _no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_what_a_holder_says_of_itself(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        assert read_leases(tmp_path)[0].state == "idle"
        lease.update({"trial": 3, "run": "trials/0003"})
        lease.beat()
        (view,) = read_leases(tmp_path)
        assert (view.id, view.pid, view.state, view.work) == (lease.id, os.getpid(), "working", lease.work)
        assert (view.counter, view.is_alive) == (1, True)
        assert view.since <= view.work_since
    assert not list(tmp_path.iterdir())


def test_an_error_is_kept_for_people_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), Lease(tmp_path):
        raise ValueError("postgresql://me:geheim@host/db refused")
    (view,) = read_leases(tmp_path)
    assert view.dead == view.reason == "ValueError: postgresql://me:***@host/db refused"


def test_a_lease_beats_by_itself(tmp_path: Path) -> None:
    with Lease(tmp_path, beat_s=0.001):
        while read_leases(tmp_path)[0].counter < 3:
            pass


def test_a_full_disk_ends_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(tmp_path) as lease:
        monkeypatch.setattr(LeaseFile, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        lease.beat()
        monkeypatch.undo()
        lease.beat()
        assert read_leases(tmp_path)[0].counter == 2


def test_one_that_is_lost_says_nothing_more_and_knows_before_it_writes(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        first, counter = lease.id, read_leases(tmp_path)[0].counter
        require_not_lost(lease.lost_file)
        declare_lost(tmp_path, lease.id, "it has not answered for 60 s")
        declare_lost(tmp_path, lease.id, "another reason")
        lease.beat()
        (view,) = read_leases(tmp_path)
        assert (view.counter, view.dead) == (counter, "it has not answered for 60 s")
        assert view.dead_since
        with pytest.raises(LeaseLost, match="others have taken over"):
            require_not_lost(lease.lost_file)
        lease.renew()
        assert not lease.is_lost
        assert [view.is_alive for view in LeaseObserver(tmp_path).look().values() if view.id != first] == [True]
    assert [view.id for view in read_leases(tmp_path)] == [first]


def test_files_of_the_dead_do_not_pile_up(tmp_path: Path) -> None:
    for number in range(130):
        remote(tmp_path)
        (tmp_path / "a.json").rename(tmp_path / f"{number}.json")
        os.utime(tmp_path / f"{number}.json", (number, number))
        declare_lost(tmp_path, str(number), "gone")
    declare_lost(tmp_path, "of which the lease is gone", "gone")  # the oldest
    with Lease(tmp_path) as lease:
        kept = {path.stem for path in tmp_path.glob("*.json")}
    assert {path.stem for path in tmp_path.glob("*.lost")} == kept - {lease.id}
    assert kept == {str(number) for number in range(30, 130)} | {lease.id}


@pytest.mark.services
def test_a_killed_process_is_dead_at_once_and_a_suspended_one_is_not(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from archlab.storage.leases import Lease
with Lease(Path({str(tmp_path)!r})):
    print("ready", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        assert [view.is_alive for view in read_leases(tmp_path)] == [True]
        process.kill()
    (view,) = read_leases(tmp_path)
    assert view.dead == "its process has ended"
    fields = json.loads((tmp_path / f"{view.id}.json").read_text())
    LeaseFile(**{**fields, "boot": OTHER_KERNEL}).write(tmp_path)
    assert read_leases(tmp_path)[0].is_alive, "a lock of another kernel says nothing"
