import os
import sqlite3
from pathlib import Path

import pytest
import yaml
from conftest import THOROUGH
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from archlab.config.experiment import parse_override
from archlab.errors import ArchlabError, ConfigError, redact
from archlab.searching.space.storage_url import PASSWORD, connection_url, secrets_of, sqlite_url, take_password

NAMES = st.text("aZ0. ?#%&=+;:@[]{}~\\'\"\nä日\u202e", min_size=1).filter(lambda name: name not in (".", ".."))
SECRETS = st.text("aZ0. ?#%&=+;:@/[]{}~$\\'\"ä日", min_size=4).map(lambda text: f"{text}.")
RANDOM = settings(max_examples=300 if THOROUGH else 20, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)


@pytest.mark.slow
@RANDOM
@given(name=NAMES)
@example(name="run?lr=1")
@example(name="a%20b")
@example(name="a b#c~{x}&y=+;:@[1]")
@example(name="C:\\runs\\ä\u202e\n'\"")
@example(name="~")
@example(name=os.fsdecode(b"not-\xff-utf8"))
def test_the_url_of_a_file_leads_to_the_file(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("f") / name
    folder.mkdir()
    database, options = make_url(sqlite_url(folder / "study.db")).database, {"uri": True}
    sqlite3.connect(str(database), **options).executescript("pragma synchronous = off; create table t (x)")  # type: ignore[call-overload]
    assert [file.name for file in folder.iterdir()] == ["study.db"]


@RANDOM
@given(password=SECRETS, sslpassword=SECRETS)
def test_no_password_is_in_the_url_that_is_kept_and_all_are_in_the_one_to_connect_to(
    password: str, sslpassword: str
) -> None:
    url = (
        make_url("postgresql://me@host:5432/db?sslmode=require")
        .set(password=password)
        .update_query_dict({"sslpassword": sslpassword})
        .render_as_string(hide_password=False)
    )
    public = take_password(url, "study.storage")
    assert public == "postgresql://me@host:5432/db?sslmode=require"
    assert make_url(connection_url(public)) == make_url(url)
    assert {password, sslpassword} <= set(secrets_of(url))
    assert redact(f"{url} is away") == f"{public.replace('@', ':***@')}&sslpassword=*** is away"
    assert yaml.safe_load(yaml.safe_dump(public)) == parse_override(f"study.storage={public}")[1] == public


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql:///db?host=/run/pg&user=a&PASSWORD=b", "postgresql:///db?host=/run/pg&user=a"),
        ("redis://:geheim@host:6379/0", "redis://@host:6379/0"),
        ("mysql+pymysql://me:p{x}%25@[::1]:33/db", "mysql+pymysql://me@[::1]:33/db"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dy", "mssql+pyodbc:///"),
        ("postgresql://me:${oc.env:PW}@host/db", "postgresql://me:${oc.env:PW}@host/db"),
        ("${oc.env:DB}", "${oc.env:DB}"),
    ],
)
def test_only_secrets_are_taken_out(url: str, public: str) -> None:
    assert take_password(url, "study.storage") == public


@pytest.mark.parametrize(
    "url",
    [
        *(
            "postgresql://me:geh@im@host/db",
            "me:geheim@host",
            "postgresql://me:${oc.env:PW,geheim}@host/db",
            "sqlite://",
        ),
        *(
            "sqlite+pysqlcipher://:geheim@/study.db",
            "sqlite:///study.db?password=geheim",
            "sqlite://me:geheim@h:p/s.db",
        ),
    ],
)
def test_what_is_no_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        take_password(url, "study.storage")
    assert "geh" not in str(caught.value)


def test_a_password_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "p@ss/w:rd{}")
    assert make_url(connection_url("postgresql://me@h/db")).password == "p@ss/w:rd{}"
    assert make_url(connection_url("postgresql://h/db")).password is None
    assert make_url(connection_url(take_password("postgresql://me:own@h/db", "p"))).password == "own"
    monkeypatch.setenv("PW", "p@ss?")
    monkeypatch.setenv("PLACE", "h")
    filled = make_url(connection_url("postgresql://me:${oc.env:PW}@${oc.env:PLACE}/db?password=${oc.env:PW}"))
    assert (filled.password, filled.host, filled.query["password"]) == ("p@ss?", "h", "p@ss?")
    with pytest.raises(ArchlabError, match="the environment variable NO_SUCH is not set"):
        connection_url("${oc.env:NO_SUCH}")


@pytest.mark.parametrize("url", ["sqlite:study.db", "sqlite://host:port/study.db"])
def test_a_url_of_sqlite_that_is_none_is_shown(url: str) -> None:
    with pytest.raises(ConfigError, match=f"study.storage: '{url}' is no URL such as sqlite:///study.db"):
        take_password(url, "study.storage")


def test_a_file_with_an_at_sign_in_its_name_has_no_password(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/me:x@host.db"
    assert secrets_of(url) == []
    assert make_url(take_password(url, "study.storage")).database == str(tmp_path / "me:x@host.db")


def test_a_relative_file_is_the_same_from_every_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    public = take_password("sqlite:///my runs/study.db?timeout=3", "study.storage")
    assert make_url(public).database == str(tmp_path / "my runs" / "study.db")
    assert make_url(public).query == {"timeout": "3"}
    assert make_url(take_password("sqlite:///~/s.db", "study.storage")).database == str(tmp_path / "home" / "s.db")
