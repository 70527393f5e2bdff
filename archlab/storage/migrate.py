"""Directories that an earlier version wrote, rewritten in the present format."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from archlab.config.experiment import read
from archlab.config.migration import migrate_experiment, migrate_space
from archlab.config.renames import current
from archlab.config.yaml_files import load_yaml
from archlab.config.yaml_writer import format_yaml
from archlab.errors import ArchlabError, ConfigError
from archlab.modeling.build import build_on_meta
from archlab.storage.files import atomic_dir, write_text
from archlab.storage.identity import content_hash
from archlab.storage.locks import lock
from archlab.storage.manifest import integrity_error, read_manifest, write_manifest
from archlab.storage.renamed_tensors import former_names, has_former_names
from archlab.storage.run_identity import RUN_FILE, is_run
from archlab.storage.run_lock import lock_run
from archlab.storage.safetensors_header import read_header
from archlab.storage.stored_tensors import OPTIMIZER, StoredTensors, rename_metadata, tensor_files
from archlab.storage.tensors import read_tensors, write_tensors

_EXPERIMENT, _BASE, _SPACE = "experiment.yaml", "base.yaml", "search.yaml"
_WEIGHTS, _STATE, _MANIFEST = "model.safetensors", "state.json", "manifest.json"
_FIRST_PART = "model-part-00001-of-*.safetensors"


@dataclass
class _Plan:
    """The files to rewrite, by their paths below the directory, and a line for each change.

    `hashes` are those of the migrated experiments, by the former ones.
    """

    writes: dict[Path, Callable[[Path], None]] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)


def migrate(folder: Path) -> list[str]:
    """Rewrite a run, a search or a published checkpoint in the present format; return a line for each change.

    A reader finds the old directory or the new one. Returns nothing for a directory of the present format. Raises
    ArchlabError for a directory that holds none of these, one in use by a search, and one that is damaged.
    """
    if not any((folder / name).is_file() for name in (_EXPERIMENT, _SPACE)):
        what = f"holds no run, search or checkpoint ({_EXPERIMENT} or {_SPACE})"
        raise ArchlabError(f"{folder}: {what if folder.is_dir() else 'is not a directory'}")
    with _exclusive(folder):
        plan = _plan(folder)
        if plan.writes:
            _rewrite(folder, plan)
    return plan.changes


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keep the workers of a search out, or the process that trains a run."""
    if not (folder / _SPACE).is_file():
        with lock_run(folder) if is_run(folder) else nullcontext():
            yield
        return
    with lock(folder / ".workers.lock", wait=False) as is_alone:
        if not is_alone:
            raise ArchlabError(f"{folder}: another process is searching here; stop it first")
        yield


def _plan(folder: Path) -> _Plan:
    plan, former = _Plan(), {}
    files = [folder / _BASE] if (folder / _SPACE).is_file() else []
    for file in [*files, *sorted(folder.rglob(_EXPERIMENT))]:
        former[file.parent] = _plan_experiment(file, folder, plan)
    if (folder / _SPACE).is_file():
        _plan_space(folder, plan)
    for place in sorted({file.parent for kind in (_WEIGHTS, _FIRST_PART) for file in folder.rglob(kind)}):
        owner = next((parent for parent in (place, *place.parents) if parent in former), None)
        if owner is not None:
            _plan_tensors(place, folder, former[owner], plan)
    _plan_identities(folder, plan)
    return plan


def _plan_experiment(file: Path, folder: Path, plan: _Plan) -> dict[str, str]:
    """Plan a file of YAML; return the present names of its model's tensors by their former ones."""
    try:
        tree = load_yaml(file)
        migrated, changes = migrate_experiment(tree, file.parent)
        former = former_names(build_on_meta(read(migrated, folder=file.parent, recorded=True).resolve().model))
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, str(file)) from None
    if migrated != tree:
        _plan_yaml(file.relative_to(folder), migrated, changes, plan)
        plan.hashes[content_hash(tree)] = content_hash(migrated)
        _require_whole(file.parent)
    return former


def _plan_space(folder: Path, plan: _Plan) -> None:
    try:
        tree = load_yaml(folder / _SPACE)
        migrated = migrate_space(tree)
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, str(folder / _SPACE)) from None
    if migrated != tree:
        _plan_yaml(Path(_SPACE), migrated, [], plan)


def _plan_yaml(file: Path, tree: Mapping[str, Any], changes: list[str], plan: _Plan) -> None:
    plan.writes[file] = partial(write_text, text=format_yaml(tree))
    plan.changes += [f"{file}: format 1 -> {current().format}", *(f"{file}: {change}" for change in changes)]


def _plan_tensors(folder: Path, root: Path, former: Mapping[str, str], plan: _Plan) -> None:
    if not former or _stays(folder):
        return
    names = StoredTensors(folder)
    if not has_former_names(names, former):
        return
    _require_whole(folder)
    place = folder.relative_to(root)
    which = names.source.relative_to(root)
    plan.changes.append(f"{which}: {sum(name in former for name in names)} tensors renamed")
    rewrites: dict[Path, Callable[..., None]] = {
        **dict.fromkeys(names.files, _rename_weights),
        **dict.fromkeys(tensor_files(folder, OPTIMIZER), _rename_moments),
        folder / _STATE: _rename_groups,
    }
    for file, rewrite in rewrites.items():
        if file.is_file():
            plan.writes[place / file.name] = partial(rewrite, former=former)


def _plan_identities(folder: Path, plan: _Plan) -> None:
    """Plan the files that name their experiment by its hash."""
    for file in [path for name in (RUN_FILE, "provenance.json", _STATE) for path in folder.rglob(name)]:
        text = file.read_bytes()
        if any(former.encode() in text for former in plan.hashes) and not (file.name == _STATE and _stays(file.parent)):
            place = file.relative_to(folder)
            plan.writes[place] = partial(_replace_hashes, hashes=plan.hashes, first=plan.writes.get(place))


def _replace_hashes(file: Path, hashes: Mapping[str, str], first: Callable[[Path], None] | None) -> None:
    if first is not None:
        first(file)
    text = file.read_text()
    for former, present in hashes.items():
        text = text.replace(former, present)
    write_text(file, text)


def _stays(folder: Path) -> bool:
    """Return whether a directory is a damaged checkpoint of a run: it stays as it was, for resuming passes it over."""
    return not (folder / _EXPERIMENT).is_file() and integrity_error(folder) is not None


def _require_whole(folder: Path) -> None:
    """Raise ArchlabError for damage, which a new manifest would hide."""
    problem = integrity_error(folder) if (folder / _MANIFEST).is_file() else None
    if problem:
        raise ArchlabError(f"{folder}: {problem}")


def _rewrite(folder: Path, plan: _Plan) -> None:
    with atomic_dir(folder, replace=True) as copy:
        # Files that stay are links: a copy of a run's checkpoints would double the space it takes.
        shutil.copytree(folder, copy, copy_function=_link, symlinks=True, dirs_exist_ok=True)
        for file, write in plan.writes.items():
            if (copy / file).is_symlink():  # it would be written through, to a file outside
                raise ArchlabError(f"{folder / file}: is a link, which is not followed to be rewritten")
            write(copy / file)
        for place in dict.fromkeys(file.parent for file in plan.writes):
            if (copy / place / _MANIFEST).is_file():
                kind = read_manifest(copy / place).kind
                (copy / place / _MANIFEST).unlink()  # else the new manifest would list the old one
                write_manifest(copy / place, kind)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links, or another one mounted below
        shutil.copy2(source, target)


def _rename_weights(file: Path, former: Mapping[str, str]) -> None:
    _replace_tensors(file, lambda name: former.get(name, name))


def _rename_moments(file: Path, former: Mapping[str, str]) -> None:
    def rename(full_name: str) -> str:
        moment, _, name = full_name.partition(".")
        return f"{moment}.{former.get(name, name)}"

    _replace_tensors(file, rename)


def _replace_tensors(file: Path, rename: Callable[[str], str]) -> None:
    tensors = {rename(name): tensor for name, tensor in read_tensors(file).items()}
    metadata = rename_metadata(read_header(file).metadata, rename)
    file.unlink()  # a link to the old directory's file, which must keep its content
    write_tensors(file, tensors, metadata or None)


def _rename_groups(file: Path, former: Mapping[str, str]) -> None:
    state = json.loads(file.read_text(encoding="utf-8"))
    for group in state["optimizer"]:
        group["params"] = [former.get(name, name) for name in group["params"]]
    write_text(file, json.dumps(state, indent=2))
