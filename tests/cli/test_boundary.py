from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from conftest import Finished

from archlab import ArchlabError
from archlab.cli import boundary, traceback_file
from archlab.config import registry
from archlab.runtime.signals import Stopped


def test_ctrl_c(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "components", interrupted)
    done = run("list", "norm")
    assert (done.status, done.err.strip()) == (130, "archlab: interrupted")


@pytest.fixture
def fail(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Run a command in which an error is raised."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def archlab(error: BaseException) -> Finished:
        def refuse(*_: object) -> None:
            raise error

        monkeypatch.setattr(registry, "components", refuse)
        return run("list", "norm")

    return archlab


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (OSError(28, "No space left on device"), 75, "OSError: [Errno 28] No space left on device"),
        (MemoryError("much"), 2, "MemoryError: much"),
        (RuntimeError("a\nb"), 2, "RuntimeError: a"),
        (RuntimeError(), 2, "RuntimeError"),
        (KeyError("x\x1b[31m"), 2, "KeyError: 'x\\x1b[31m'"),
        (UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"), 2, "UnicodeEncodeError: 'utf-8' codec"),
        (RecursionError("maximum recursion depth exceeded"), 2, "RecursionError: maximum recursion depth exceeded"),
        (
            ValueError("postgresql://me:secret@host/db\x1b[2J\u202e"),
            2,
            "ValueError: postgresql://me:***@host/db\\x1b[2J",
        ),
    ],
)
def test_whatever_is_raised_is_one_line_and_a_file(
    error: Exception, status: int, line: str, fail, tmp_path: Path
) -> None:
    done = fail(error)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(f"archlab: {line}")
    assert done.err.count("\n") == 1
    assert all(character.isprintable() for character in done.err[:-1])
    (file,) = (tmp_path / "state/archlab/errors").iterdir()
    assert done.err.endswith(f"; the traceback is in {file}\n")
    text = file.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in text
    assert type(error).__name__ in text
    assert "secret" not in text
    assert "\x1b" not in text
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_traceback_that_cannot_be_written_is_not_mentioned(
    fail, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("")
    monkeypatch.setattr(traceback_file, "private_temp_dir", lambda: None)
    assert fail(RuntimeError("a")).err == "archlab: RuntimeError: a\n"


def test_an_error_of_archlab_s_own_that_the_machine_caused(fail) -> None:
    error = ArchlabError("run: cannot be written\nhere")
    error.__cause__ = OSError(28, "No space left on device")
    done = fail(error)
    assert (done.status, done.err) == (75, "archlab: run: cannot be written\\nhere\n")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (Stopped(signal.SIGTERM), 143, "archlab: stopped by SIGTERM\n"),
        (Stopped(signal.SIGUSR1), 85, "archlab: stopped by SIGUSR1\n"),
        (Stopped(signal.SIGINT), 130, "archlab: interrupted\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_what_stops_a_command_is_no_error(error: BaseException, status: int, line: str, fail) -> None:
    done = fail(error)
    assert (done.status, done.err) == (status, line)


def test_a_stop_reports_the_checkpoint(fail) -> None:
    error = KeyboardInterrupt()
    error.add_note("runs/a: saved at step 3")
    assert fail(error).err == "archlab: interrupted; runs/a: saved at step 3\n"


def test_a_thread_that_fails_is_one_line(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def work(*_: object) -> list[object]:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        return []

    monkeypatch.setattr(registry, "components", work)
    monkeypatch.setattr(boundary.logging, "basicConfig", lambda **_: None)  # pytest has its own handlers
    assert run("list", "norm").status == 0
    assert len(list((tmp_path / "state/archlab/errors").iterdir())) == 1


def test_a_working_directory_that_is_gone(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "cwd", _missing)
    done = run("show", "quickstart")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "the working directory no longer exists" in done.err


def _missing() -> Path:
    raise FileNotFoundError(2, "No such file or directory")
