"""URLs of a study's database: built from paths, and kept without the passwords that they were given with.

A password is held in this process alone. The URL that is stored, compared and printed does not have it.
"""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, unquote_plus

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from archlab.errors import ArchlabError, ConfigError

PASSWORD = "ARCHLAB_STORAGE_PASSWORD"
JOURNAL = "journal"  # by itself, a file in the search's directory
# The drivers of archlab's extras. SQLAlchemy's default drivers change with its versions, and for MySQL it is
# one that has to be compiled.
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
_REFERENCE = re.compile(r"\$\{oc\.env:([A-Za-z_]\w*)\}")
_URL = re.compile(
    r"(?P<scheme>[\w+.-]+://)"
    r"(?:(?P<user>(?:\$\{[^}]*\}|[^:/@?])*)(?::(?P<password>[^@]*))?(?P<at>@))?"
    r"(?P<place>[^@?]*)(?:\?(?P<query>.*))?"
)
# odbc_connect is a whole connection string, with its password.
_SECRET = re.compile(r"password|passwd|passphrase|pwd|secret|token|api_?key|credential|odbc_connect", re.IGNORECASE)
_EXAMPLE = "postgresql://user@host/database"
# The URLs with their passwords, by the URLs without: a process may open a study again, as its report does.
_given: dict[str, str] = {}


def take_password(url: str, path: str) -> str:
    """Return a URL without its passwords, which this process keeps; raise ConfigError for an invalid URL.

    References to environment variables, `${oc.env:NAME}`, are no secrets and stay.
    """
    if _REFERENCE.fullmatch(url):
        return url
    if "${" in _REFERENCE.sub("", url):
        raise ConfigError(path, "holds a reference other than ${oc.env:NAME}")
    if is_sqlite(url):
        return _with_absolute_path(url, path)
    if is_journal(url):
        return _absolute_journal(url, path)
    public = _without_secrets(url, path)
    if public != url:
        _given[public] = url
    return public


def connection_url(public: str) -> str:
    """Return the URL to connect to: with the passwords given to this process and the values of its environment.

    Raises ArchlabError for an environment variable that is not set.
    """
    url = _given.get(public, public)
    if whole := _REFERENCE.fullmatch(url):
        url = _environment(whole[1])
    if is_sqlite(url):
        return _with_absolute_path(url, "study.storage")
    url = _fill_references(url)
    if is_journal(url):
        return _absolute_journal(url, "study.storage")
    found = _URL.fullmatch(url)
    password = os.environ.get(PASSWORD)
    if found and found["user"] and found["password"] is None and password:
        start = found.end("user")
        url = f"{url[:start]}:{quote(password, safe='')}{url[start:]}"
    return url


def password_environment(public: str | None) -> dict[str, str]:
    """Return the variable by which another process has the password that this one was given with a URL, if any."""
    found = _URL.fullmatch(_given.get(public or "", ""))
    return {PASSWORD: unquote(found["password"])} if found and found["password"] else {}


def secrets_of(url: str) -> list[str]:
    """Return the passwords in a URL, as they are written and as they are read, longest first."""
    found = _URL.fullmatch(url)
    if not found:
        return []
    values = [unquote(found["password"] or ""), found["password"] or ""]
    values += [value for name, value in parse_qsl(found["query"] or "") if _SECRET.search(name)]
    return sorted({value for value in values if value}, key=len, reverse=True)


def sqlite_url(file: Path) -> str:
    """Return the URL of an SQLite file, whatever characters its path has."""
    # As a URI of SQLite's own: SQLAlchemy has no way to write a database whose path holds a question mark.
    database = f"file:{quote(os.fsencode(file.absolute()))}"
    return URL.create("sqlite", database=database, query={"uri": "true"}).render_as_string(hide_password=False)


def read_only_sqlite(url: str) -> str:
    """Return the URL of an SQLite file as one that is opened for reading alone, and never created."""
    parsed = make_url(url)
    if not (parsed.database or "").startswith("file:"):
        parsed = make_url(sqlite_url(Path(parsed.database or "")))
    return parsed.update_query_dict({"mode": "ro"}).render_as_string(hide_password=False)


def is_sqlite(url: str) -> bool:
    """Return whether a URL names an SQLite database."""
    return re.match(r"sqlite(\+\w+)?:", url) is not None


def is_journal(url: str) -> bool:
    """Return whether a URL names a file that holds a journal of Optuna's."""
    return url == JOURNAL or url.startswith(f"{JOURNAL}:")


def journal_file(url: str, folder: Path) -> Path:
    """Return the file of a journal's URL, which is study.journal where it names none."""
    return folder / "study.journal" if url == JOURNAL else Path(url.removeprefix(f"{JOURNAL}://"))


def _absolute_journal(url: str, path: str) -> str:
    """Return the URL of a journal that leads to the same file from every working directory."""
    if url == JOURNAL:
        return url
    # As in a URL of a file, three slashes begin an absolute path; the four of an SQLite URL do, too.
    name = re.sub("^/+", "/", url.removeprefix(f"{JOURNAL}:").removeprefix("//"))
    if not name.strip("/") or name.endswith("/"):
        raise ConfigError(path, f"{url!r} names no file, as journal:///shared/study.journal does")
    if "${" in name:
        return f"{JOURNAL}://{name}"
    return f"{JOURNAL}://{Path(name).expanduser().absolute()}"


def with_driver(url: str) -> str:
    """Return a URL with the driver of archlab's extra for its database, if it names none and that one is installed."""
    scheme, separator, rest = url.partition("://")
    driver = DRIVERS.get(scheme, "")
    return f"{scheme}+{driver}{separator}{rest}" if driver and find_spec(driver) else url


def _without_secrets(url: str, path: str) -> str:
    found = _URL.fullmatch(url)
    if not found:
        # Without the URL in the message: the ends of its password are unknown.
        problem = f"is no URL such as {_EXAMPLE}; a user's name and password have @ written as %40, and / as %2F"
        raise ConfigError(path, problem)
    password = found["password"]
    kept = f":{password}" if password and _REFERENCE.fullmatch(password) else ""
    parts = [part for part in (found["query"] or "").split("&") if part and not _is_secret(part)]
    query = f"?{'&'.join(parts)}" if parts else ""
    return f"{found['scheme']}{found['user'] or ''}{kept}{found['at'] or ''}{found['place']}{query}"


def _is_secret(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return bool(_SECRET.search(unquote_plus(name))) and not _REFERENCE.fullmatch(value)


def _with_absolute_path(url: str, path: str) -> str:
    """Return the URL of an SQLite file that leads to the same file from every working directory."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(path, f"{url!r} is no URL such as sqlite:///study.db") from error
    database = parsed.database or ":memory:"
    if ":memory:" in database or parsed.query.get("mode") == "memory":
        raise ConfigError(path, "is a database in memory, which a search cannot be resumed from")
    if secrets_of(url):  # without the URL in the message, and before it is written anywhere
        raise ConfigError(path, "holds a password, which an SQLite file has none of")
    if database.startswith("file:"):
        return url
    absolute = Path(database).expanduser().absolute()
    return parsed.set(database=str(absolute)).render_as_string(hide_password=False)


def _fill_references(url: str) -> str:
    found = _URL.fullmatch(url)
    authority = (found.start("user"), found.end("at")) if found and found["at"] else (0, 0)
    query = found.start("query") if found and found["query"] else len(url)

    def fill(reference: re.Match[str]) -> str:
        value = _environment(reference[1])
        quoted = authority[0] <= reference.start() < authority[1] or reference.start() >= query
        return quote(value, safe="") if quoted else value

    return _REFERENCE.sub(fill, url)


def _environment(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ArchlabError(f"study.storage: the environment variable {name} is not set")
    return value
