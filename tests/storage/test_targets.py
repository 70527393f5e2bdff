"""Only what archlab wrote is ever replaced, and it is known by its manifest."""

from __future__ import annotations

import errno
import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from archlab import ArchlabError
from archlab.reporting.html import page
from archlab.storage.files import atomic_dir
from archlab.storage.manifest import write_manifest
from archlab.storage.targets import require_report_target, require_schema_target, require_target


def write(folder: Path, kind: str = "export") -> Path:
    with atomic_dir(folder, replace=True) as partial:
        for name in ("config.yaml", "model.py", "model.safetensors"):
            (partial / name).write_text(f"{kind} {name}")
        write_manifest(partial, kind)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_an_absent_and_an_empty_folder_may_be_written(tmp_path: Path) -> None:
    require_target(tmp_path / "a" / "b", "export", force=False)
    assert os.listdir(tmp_path) == []
    (tmp_path / "empty").mkdir()
    require_target(tmp_path / "empty", "export", force=False)
    (tmp_path / "link").symlink_to("empty")
    require_target(tmp_path / "link", "export", force=True)


def test_an_earlier_one_is_replaced_if_forced(tmp_path: Path) -> None:
    out = write(tmp_path / "out")
    with pytest.raises(ArchlabError, match=r"out: is not empty; name another directory for the export, or .* --force"):
        require_target(out, "export", force=False)
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"")
    require_target(out, "export", force=True)(out)


def _add(name: str, text: str = "mine") -> Callable[[Path], None]:
    def change(out: Path) -> None:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(text)

    return change


def _link(out: Path) -> None:
    (out / "model.py").rename(out.parent / "model.py")
    (out / "model.py").symlink_to(out.parent / "model.py")


def _link_folder(out: Path) -> None:
    out.rename(out.parent / "real")
    out.symlink_to("real")


FOREIGN = {
    "a file": (_add("notes.txt"), "holds 'notes.txt', no part of an earlier export"),
    "a hidden file": (_add(".env"), "holds '.env', no part of an earlier export"),
    "a checkout": (_add(".git/HEAD"), "holds '.git', no part of an earlier export"),
    "a cache of someone else": (_add("__pycache__/data.bin"), "holds 'data.bin'"),
    "an edited file": (_add("model.py"), r"model\.py has 4 bytes and not 15 since archlab wrote it; move it away"),
    "a file of the same size": (_add("model.py", "x" * 15), r"model\.py has changed since archlab wrote it"),
    "a link": (_link, "holds 'model.py', no part of an earlier export"),
    "no manifest": (lambda out: (out / "manifest.json").unlink(), "holds 'config.yaml', no part of an earlier export"),
    "a damaged manifest": (_add("manifest.json", "{"), "holds 'config.yaml', no part of an earlier export"),
    "another kind": (lambda out: write(out, "import"), "holds another kind, import, and not export"),
    "a linked folder": (
        lambda out: out.rename(out.parent / "real") and out.symlink_to("real"),
        "is a link to a directory .*real",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("force", [False, True])
def test_what_archlab_did_not_write_stays_also_if_forced(tmp_path: Path, case: str, force: bool) -> None:
    out = write(tmp_path / "out")
    change, words = FOREIGN[case]
    change(out)
    before = contents(tmp_path)
    with pytest.raises(ArchlabError, match=words):
        require_target(out, "export", force=force)
    assert contents(tmp_path) == before


def test_an_export_of_archlab_0_1_is_known_by_its_module(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    _add("model.py", '"""it.\n\nWritten by archlab 0.1.0.\n"""')(tmp_path / "out")
    _add("config.yaml")(tmp_path / "out")
    require_target(tmp_path / "out", "export", force=True)
    _add("extra.py")(tmp_path / "out")
    with pytest.raises(ArchlabError, match=r"holds 'extra\.py'"):
        require_target(tmp_path / "out", "export", force=True)


def test_a_file_of_the_user_is_no_report_and_no_schema(tmp_path: Path) -> None:
    checks = {"report.html": require_report_target, "schema.json": require_schema_target}
    own = {
        "report.html": page("Run: a", [], []),
        "schema.json": json.dumps({"$schema": "", "title": "archlab experiment"}),
    }
    for name, check in checks.items():
        check(tmp_path / name)
        (tmp_path / name).write_text(own[name])
        check(tmp_path / name)
        for text in ("", "{}", "[]", "<html><head></head></html>", '{"title": "mine"}', '{"title": 1}'):
            (tmp_path / name).write_text(text)
            with pytest.raises(ArchlabError, match=f"{name}: is not a .* that archlab wrote"):
                check(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").write_text(own[name])
        (tmp_path / name).symlink_to("elsewhere")
        with pytest.raises(ArchlabError, match=f"{name}: is not a .* that archlab wrote"):
            check(tmp_path / name)


def test_a_place_that_is_no_folder_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dead").symlink_to("nowhere")
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    places = {
        "file": "is a file",
        "file/below": "or below one",
        "dead": "is a link that leads nowhere",
        "home": "is the home",
        "here": "is the current directory",
        "gr\udcfcn/out": "its path is not UTF-8",
    }
    for place, words in {
        **{str(tmp_path / name): words for name, words in places.items()},
        "/": "root",
        ".": "current",
    }.items():
        with pytest.raises(ArchlabError, match=words):
            require_target(Path(place), "export", force=True)


@pytest.mark.parametrize("out", ["source", "source/below", ".", "link", "link/below"])
def test_a_source_is_not_overwritten(tmp_path: Path, out: str) -> None:
    (tmp_path / "all" / "source").mkdir(parents=True)
    (tmp_path / "all" / "link").symlink_to("source")
    with pytest.raises(ArchlabError, match=r"(contains|is inside) the source .*source;"):
        require_target(tmp_path / "all" / out, "export", force=True, sources=[tmp_path / "all" / "source"])
    require_target(tmp_path / "all" / "beside", "export", force=True, sources=[tmp_path / "all" / "source"])


def test_a_place_that_the_system_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchlabError, match=r"x{300}: cannot be used: File name too long$"):
        require_target(tmp_path / ("x" * 300), "export", force=True)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "iterdir", _denied)
    with pytest.raises(ArchlabError, match=f"^{tmp_path}/out: cannot be read: Permission denied$"):
        require_target(tmp_path / "out", "export", force=True)


def _denied(path: Path) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_a_user_without_a_home_may_write_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # as in a container that runs as any number
    require_target(tmp_path / "out", "export", force=False)
    with pytest.raises(ArchlabError, match="is the home or the root directory"):
        require_target(Path("/"), "export", force=True)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"state.json": "{}"}, "checkpoint"),
        ({"provenance.json": '{"imported_from": "x"}'}, "import"),
        ({"provenance.json": "{}"}, "model"),
        ({"notes.txt": "mine"}, ""),
    ],
)
def test_what_archlab_0_1_wrote_is_known_by_its_files(tmp_path: Path, files: dict[str, str], kind: str) -> None:
    (tmp_path / "out").mkdir()
    for name, text in files.items():
        _add(name, text)(tmp_path / "out")
    write_manifest(tmp_path / "out")
    if kind:
        require_target(tmp_path / "out", kind, force=True)
    other = f"holds another kind, {kind}, and not export" if kind else "holds 'manifest.json', no part of an earlier"
    with pytest.raises(ArchlabError, match=other):
        require_target(tmp_path / "out", "export", force=True)
