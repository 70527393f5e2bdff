"""PostgreSQL and MariaDB themselves, each started in a directory of its own."""

import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from search_helpers import pretend, replace_costs, replace_training, search, write_space

from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError
from archlab.searching.space.storage_url import PASSWORD as VARIABLE
from archlab.searching.study import database
from archlab.searching.study.database import DatabaseError, open_database

# psycopg warns of connections that are open when their study is forgotten, as they are at the end of a process.
pytestmark = [pytest.mark.services, pytest.mark.filterwarnings("ignore::ResourceWarning")]
PASSWORD = "hun%t:er@2/"  # what a URL has to escape


@dataclass
class Server:
    """A database server of this test, which listens on one port of this machine."""

    kind: str
    folder: Path
    command: list[str]
    port: int
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "log.txt"

    @property
    def url(self) -> str:
        """Its URL without a password."""
        return f"{self.kind}://me@127.0.0.1:{self.port}/searches"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, **_user(self.kind))  # type: ignore[call-overload]
        for _ in range(600):
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill it, as a machine that fails does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def _user(kind: str) -> dict[str, str]:
    # PostgreSQL refuses to run as root.
    return {"user": "postgres", "group": "postgres"} if kind == "postgresql" and os.geteuid() == 0 else {}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _program(*names: str) -> str:
    places = os.pathsep.join([os.environ["PATH"], "/usr/sbin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
    found = next(filter(None, (shutil.which(name, path=places) for name in names)), None)
    return found or pytest.skip(f"{names[0]} is not installed")


def _postgresql(folder: Path, port: int) -> Server:
    initdb, postgres, psql = _program("initdb"), _program("postgres"), _program("psql")
    (folder / "password").write_text(PASSWORD)
    folder.chmod(0o755)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    init = [initdb, "-D", str(folder / "data"), "-A", "scram-sha-256", "-U", "me", "--pwfile", str(folder / "password")]
    subprocess.run([*init, "--no-sync"], check=True, capture_output=True, **_user("postgresql"))  # type: ignore[call-overload]
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
    server = Server("postgresql", folder, [postgres, "-D", str(folder / "data"), *options], port)
    server.start()
    create = [psql, "-h", "127.0.0.1", "-p", str(port), "-U", "me", "-d", "postgres", "-c", "create database searches"]
    for _ in range(100):
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        if subprocess.run(create, env=environment, capture_output=True, check=False).returncode == 0:
            return server
        time.sleep(0.1)
    raise AssertionError(server.log.read_text())


def _mariadb(folder: Path, port: int) -> Server:
    install, daemon = _program("mariadb-install-db", "mysql_install_db"), _program("mariadbd", "mysqld")
    options = [f"--datadir={folder / 'data'}", *(["--user=root"] if os.geteuid() == 0 else [])]
    init = [install, "--no-defaults", *options, "--auth-root-authentication-method=normal"]
    subprocess.run(init, check=True, capture_output=True)
    statements = (  # each on a line of its own
        "create database if not exists searches",
        f"create user if not exists me@'127.0.0.1' identified by '{PASSWORD}'",
        "grant all on searches.* to me@'127.0.0.1'",
    )
    (folder / "init.sql").write_text("".join(f"{statement};\n" for statement in statements))
    listen = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 's'}", "--skip-name-resolve"]
    command = [daemon, "--no-defaults", *options, *listen, f"--init-file={folder / 'init.sql'}"]
    server = Server("mysql", folder, command, port)
    server.start()
    return server


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with the database `searches`, of a user `me` with a password."""
    pytest.importorskip({"postgresql": "psycopg", "mysql": "pymysql"}[request.param])
    # Not a folder of pytest's, which another run of pytest closes to every other user, such as that of PostgreSQL.
    with tempfile.TemporaryDirectory(prefix="archlab-") as folder:
        started = {"postgresql": _postgresql, "mysql": _mariadb}[request.param](Path(folder), _free_port())
        try:
            yield started
        finally:
            started.stop()


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace what takes time."""
    monkeypatch.delenv(VARIABLE, raising=False)
    replace_costs(monkeypatch)
    replace_training(monkeypatch, pretend())
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of connections that end with the process that opened them
        gc.collect()


def all_text(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def give_password(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Keep the password where the database's own tools look for it; return the URL."""
    if server.kind == "postgresql":
        file = folder.parent / "pgpass"
        escaped = PASSWORD.replace(":", "\\:")
        file.write_text(f"127.0.0.1:{server.port}:searches:me:{escaped}\n")
        file.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(file))
        return server.url
    file = folder.parent / "my.cnf"
    file.write_text(f'[client]\nuser = me\npassword = "{PASSWORD}"\n')
    return f"{server.kind}://127.0.0.1:{server.port}/searches?read_default_file={file}"


def test_a_server_that_is_away_for_a_while_loses_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done, stopped = pretend(), list[int]()

    def lose_server(experiment: Experiment) -> float:
        if experiment.train.lr != 0.01 and len(stopped) < 2:  # in the first two trials, and not in the baseline
            stopped.append(1)
            server.stop()
            threading.Timer(1.5, server.start).start()
        return 1.0

    replace_training(monkeypatch, pretend(loss=lose_server))
    monkeypatch.setattr(database, "PAUSE_S", 0.2)
    storage = give_password(server, tmp_path, monkeypatch)
    file, folder = write_space(tmp_path, study={"storage": storage, "pruner": "none"}), tmp_path / "s"
    assert search(file, folder, trials=3).summary.trials == {"complete": 3}
    assert (len(stopped), caplog.text.count("is back after")) == (2, 2)
    replace_training(monkeypatch, done)
    assert search(file, folder, trials=4).summary.trials == {"complete": 4}
    shown = all_text(folder) + caplog.text + file.read_text()
    assert PASSWORD not in shown
    search(file, folder, trials=1, force=True)


def test_passwords_reach_no_file_and_no_message(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    written = server.url.replace("me@", "me:${oc.env:DB_PASSWORD}@")
    file, folder = write_space(tmp_path, study={"storage": written, "pruner": "none"}), tmp_path / "s"
    assert search(file, folder, trials=1).summary.trials == {"complete": 1}
    assert yaml.safe_load((folder / "search.yaml").read_text())["study"]["storage"] == written
    monkeypatch.setenv("DB_PASSWORD", "wrong-guess")
    with pytest.raises(ArchlabError) as caught:
        search(file, folder, trials=2)
    assert "wrong-guess" not in str(caught.value)
    assert "\n" not in str(caught.value)
    missing = server.url.replace("/searches", "/nowhere")
    monkeypatch.setenv(VARIABLE, PASSWORD)
    with pytest.raises(DatabaseError, match=r"/nowhere: cannot be used: .*nowhere") as away:
        open_database(missing)
    output = capfd.readouterr()
    shown = all_text(folder) + str(away.value) + str(caught.value) + output.out + output.err
    assert PASSWORD not in shown
    assert "hun%25t" not in shown


def test_two_processes_share_a_study(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = give_password(server, tmp_path, monkeypatch)
    file, folder = write_space(tmp_path, study={"storage": storage, "pruner": "none"}), tmp_path / "s"
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
import pytest
from search_helpers import pretend, replace_costs, replace_training, search
patch = pytest.MonkeyPatch()
replace_training(patch, pretend())
replace_costs(patch)
search(Path({str(file)!r}), Path({str(folder)!r}), trials=6)
"""
    workers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    summary = search(file, folder, trials=6).summary
    assert summary.trials == {"complete": 6}
    search(file, folder, trials=1, force=True)
