import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.trial import TrialState
from search_helpers import pretend, replace_costs, replace_training, search, write_space

from archlab.errors import ArchlabError, ConfigError, MachineError
from archlab.searching.space.load_space import load_space
from archlab.searching.space.storage_url import connection_url, take_password
from archlab.searching.study import database, journal
from archlab.searching.study.database import DatabaseError, open_journal
from archlab.searching.study.journal import JournalFile
from archlab.searching.study.study import open_study


def read(file: Path, first: int = 0) -> list[dict[str, Any]]:
    return list(JournalFile(file).read_logs(first))


def test_a_line_of_a_killed_writer_is_cut_off_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / "j"
    one, other = JournalFile(file), JournalFile(file)
    one.append_logs([{"a": 1}, {"a": 2}])
    assert list(other.read_logs(1)) == [{"a": 2}]
    with file.open("ab") as torn:
        torn.write(b'{"a": "' + b"x" * 200_000)
    assert list(other.read_logs(0)) == read(file) == [{"a": 1}, {"a": 2}]
    one.append_logs([{"a": 3}])
    assert list(other.read_logs(2)) == [{"a": 3}]
    assert read(file, 3) == []
    file.write_bytes(b"x" * 200_000)  # no line at all
    one.append_logs([{"a": 4}])
    assert read(file) == [{"a": 4}]


def test_a_full_disk_leaves_the_last_good_state_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_journal(tmp_path / "j")
    before = (tmp_path / "j").read_bytes()

    def fill(file: Any, at: int, text: bytes) -> None:
        file.seek(at)
        file.write(text[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal, "_write", fill)
    with pytest.raises(DatabaseError, match=r"/j: cannot be used: \[Errno 28\] No space left on device$"):
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    assert (tmp_path / "j").read_bytes() == before
    monkeypatch.undo()
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")


def test_a_file_server_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, tries = open_journal(tmp_path / "j"), []
    write = journal._write

    def away(*given: Any) -> None:
        tries.append(given)
        if len(tries) < 3:
            raise OSError(errno.ESTALE, "Stale file handle")
        write(*given)

    monkeypatch.setattr(journal, "_write", away)
    monkeypatch.setattr(database, "sleep", lambda _: None)
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    assert len(tries) == 3
    assert len(read(tmp_path / "j")) == 1


def test_a_journal_that_was_deleted_meanwhile_is_not_begun_again(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "j")
    (tmp_path / "j").unlink()
    with pytest.raises(DatabaseError, match="No such file"):
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("{}\nno JSON\n")
    with pytest.raises(MachineError, match="j: line 2: is not a line of a journal"):
        read(tmp_path / "j")


def test_optuna_itself_reads_it(tmp_path: Path) -> None:
    ours = optuna.create_study(storage=JournalStorage(JournalFile(tmp_path / "j")), study_name="s")
    ours.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    theirs = optuna.storages.journal.JournalFileBackend(str(tmp_path / "j"))
    again = optuna.load_study(study_name="s", storage=JournalStorage(theirs))
    assert again.trials == ours.trials


def test_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROOT", "/shared")
    for given, expected in {
        "journal": "journal",
        "journal:///shared/s.journal": "journal:///shared/s.journal",
        "journal:////shared/s.journal": "journal:///shared/s.journal",
        "journal:s.journal": f"journal://{tmp_path}/s.journal",
        "journal://a/s.journal": f"journal://{tmp_path}/a/s.journal",
    }.items():
        assert take_password(given, "study.storage") == expected
    kept = take_password("journal://${oc.env:ROOT}/s", "study.storage")
    assert (kept, connection_url(kept)) == ("journal://${oc.env:ROOT}/s", "journal:///shared/s")
    for wrong in ("journal:", "journal://", "journal:///", "journal:///shared/"):
        with pytest.raises(ConfigError, match=r"study.storage: .* names no file, as journal:///shared/study.journal"):
            take_password(wrong, "study.storage")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace what takes time."""
    replace_training(monkeypatch, pretend())
    replace_costs(monkeypatch)


@pytest.mark.slow
def test_a_search_over_a_journal(tmp_path: Path, fake: None) -> None:
    file, folder = write_space(tmp_path, study={"storage": "journal", "pruner": "none"}), tmp_path / "s"
    search(file, folder, trials=1)
    study = open_study(load_space(file), folder)
    study.ask().suggest_float("train.lr", 0.001, 0.1, log=True)  # and its worker is killed
    assert search(file, folder, trials=3).summary.trials == {"complete": 3}
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert not (folder / "study.db").exists()
    (folder / "study.journal").unlink()
    with pytest.raises(ArchlabError, match=r"study.journal: is missing; archlab search begins the search again"):
        open_study(load_space(file), folder, create=False)
    assert search(file, folder, trials=1).summary.trials == {"complete": 1}
    assert (folder / "put_aside" / "1" / "trials" / "0003").is_dir()
    search(file, folder, trials=1, force=True)
    elsewhere = write_space(tmp_path, study={"storage": f"journal://{tmp_path}/shared.journal", "pruner": "none"})
    assert search(elsewhere, tmp_path / "t", trials=1).summary.trials == {"complete": 1}
    search(elsewhere, tmp_path / "t", trials=1, force=True)
    names = [log["study_name"] for log in read(tmp_path / "shared.journal") if "study_name" in log]
    assert len(names) == 2


@pytest.mark.services
def test_writers_that_are_killed_lose_nothing_and_hold_up_nobody(tmp_path: Path) -> None:
    script = f"""
import itertools
from pathlib import Path
from archlab.searching.study.journal import JournalFile
journal = JournalFile(Path({str(tmp_path / "j")!r}))
for number in itertools.count():
    journal.append_logs([{{"writer": __import__("os").getpid(), "number": number, "text": "x" * 30_000}}])
    print(number, flush=True)
"""
    acknowledged = {}
    for _ in range(4):
        writers = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            for _ in range(5):
                writer.stdout.readline()
        for writer in writers:
            writer.kill()
            lines = writer.communicate()[0].decode().splitlines(keepends=True)
            acknowledged[writer.pid] = max([4, *(int(line) for line in lines if line.endswith("\n"))])
    JournalFile(tmp_path / "j").append_logs([{"writer": os.getpid(), "number": 0}])
    logs = read(tmp_path / "j")
    for pid, last in acknowledged.items():
        numbers = [log["number"] for log in logs if log["writer"] == pid]
        assert numbers == list(range(len(numbers)))
        assert numbers[-1] >= last, "what a writer was acknowledged is stored"
    assert json.loads((tmp_path / "j").read_text().splitlines()[-1])["writer"] == os.getpid()
