"""Directories to write to: what may be written there, and what `force` may replace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError, is_unicode
from archlab.storage.manifest import integrity_error, read_manifest
from archlab.storage.ownership import listed_dir, own_file, report_file

_FORMER_EXPORT = {"model.safetensors", "config.yaml", "model.py", "__pycache__"}
_FORCE, _ELSE = "overwrite it with --force", "name another directory"


def require_target(out: Path, kind: str, *, force: bool, sources: Iterable[Path] = ()) -> Callable[[Path], None]:
    """Raise ArchlabError unless a directory of some kind, such as `export`, may be written to `out`.

    It may be missing or empty, or with `force` an earlier one of its kind with every file as archlab wrote it. It may
    hold none of the `sources`, and are in none of those that are directories. Returns the check for `atomic_dir`.
    """
    require_dir(out)
    if out.resolve() == Path.cwd():  # replaced as a whole, it would leave the shell in a deleted directory
        raise ArchlabError(f"{out}: is the current directory; name one of its own for the {kind}")
    require_apart(out, sources)
    check = partial(_require_earlier, kind=kind)
    if is_occupied(out):
        if out.is_symlink():
            raise ArchlabError(f"{out}: is a link to a directory that is not empty; name {out.resolve()}")
        check(out)
        if not force:
            raise ArchlabError(f"{out}: is not empty; name another directory for the {kind}, or {_FORCE}")
    return check


def require_dir(out: Path) -> None:
    """Raise ArchlabError for a path that is not a directory of its own: a file, a dead link, home, the root."""
    try:
        if out.is_symlink() and not out.exists():
            raise ArchlabError(f"{out}: is a link that leads nowhere")
        if any(place.exists() and not place.is_dir() for place in (out, *out.parents)):
            raise ArchlabError(f"{out}: is a file or below one, not a directory")
        if out.resolve() in (Path("/"), _home()):
            raise ArchlabError(f"{out}: is the home or the root directory; name one of its own")
        if not is_unicode(str(out.resolve())):
            raise ArchlabError(f"{out}: its path is not UTF-8, and safetensors stores nothing there")
    except OSError as error:
        raise ArchlabError(f"{out}: cannot be used: {error.strerror}") from error


def _home() -> Path | None:
    try:
        return Path.home().resolve()
    except RuntimeError:  # a user without one, as in some containers
        return None


def require_apart(out: Path, sources: Iterable[Path]) -> None:
    """Raise ArchlabError if a directory contains a source of the command, or is inside of one."""
    target = out.resolve()
    for source in map(Path.resolve, sources):
        if target == source or target in source.parents:
            raise ArchlabError(f"{out}: contains the source {source}; choose another directory")
        if source in target.parents:
            raise ArchlabError(f"{out}: is inside the source {source}; choose another directory")


def is_occupied(out: Path) -> bool:
    """Return whether a directory holds anything; raise ArchlabError if it cannot be read."""
    try:
        return out.is_dir() and any(out.iterdir())
    except OSError as error:
        raise ArchlabError(f"{out}: cannot be read: {error.strerror}") from error


def require_schema_target(file: Path) -> None:
    """Raise ArchlabError unless a JSON Schema may be written to a file: it is absent, or archlab wrote it."""
    if not file.exists() and not file.is_symlink():
        return
    try:
        title = read_object(file, "a JSON Schema").get("title") if own_file(file) is None else None
    except ArchlabError:
        title = None
    if not isinstance(title, str) or not title.startswith("archlab "):
        raise ArchlabError(f"{file}: is not a JSON Schema that archlab wrote; name another file")


def require_report_target(file: Path) -> None:
    """Raise ArchlabError unless a report may be written to a file: it is absent, or archlab wrote it."""
    if (file.exists() or file.is_symlink()) and report_file(file) is not None:
        raise ArchlabError(f"{file}: is not a report that archlab wrote; move it away")


def _require_earlier(out: Path, kind: str) -> None:
    """Raise ArchlabError unless everything in a directory is as archlab wrote it, as one of this kind."""
    if not any(out.iterdir()):
        return
    found = _kind_of(out)
    foreign = listed_dir(out) if found else sorted(out.iterdir())[0]
    if found == kind == "export" and not (out / "manifest.json").exists():
        foreign = next((path for path in sorted(out.iterdir()) if path.name not in _FORMER_EXPORT), None)
    if foreign is not None:
        raise ArchlabError(f"{out}: is not empty: it holds {foreign.name!r}, no part of an earlier {kind}; {_ELSE}")
    if found != kind:
        raise ArchlabError(f"{out}: is not empty: it holds another kind, {found}, and not {kind}; {_ELSE}")
    problem = integrity_error(out) if (out / "manifest.json").exists() else None
    if problem:
        raise ArchlabError(f"{out}: {problem} since archlab wrote it; move it away, or {_ELSE}")


def _kind_of(out: Path) -> str:
    """Return the kind of a directory that archlab wrote, or nothing; archlab 0.1 wrote it nowhere."""
    try:
        manifest = read_manifest(out)
    except (OSError, ValueError):
        return "export" if _is_former_export(out) else ""
    if manifest.kind:
        return manifest.kind
    return "checkpoint" if "state.json" in manifest.files else _kind_of_model(out)


def _kind_of_model(out: Path) -> str:
    try:
        imported = b'"imported_from"' in (out / "provenance.json").read_bytes()
    except OSError:
        return ""
    return "import" if imported else "model"


def _is_former_export(out: Path) -> bool:
    module = out / "model.py"
    return own_file(module) is None and b"\nWritten by archlab " in module.read_bytes()
