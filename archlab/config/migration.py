"""YAML of an earlier format with its components and knobs called by their present names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from archlab.config import paths, renames
from archlab.config.experiment import KINDS
from archlab.config.plugins import load_plugin
from archlab.config.registry import Slot, find, names
from archlab.config.schema import coerce
from archlab.config.train_config import OPTIMIZER, OPTIMIZER_PATH
from archlab.errors import ConfigError, show_value


def migrate_experiment(tree: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the YAML data of an experiment in the present format, and a line for each name that changed.

    Its plugins are imported, seen from `folder`. Raises ConfigError for data of a later format.
    """
    if renames.check_format(tree.get("format")) == renames.current().format:
        return dict(tree), []
    for plugin in coerce(tree.get("plugins") or [], list[str], "plugins"):
        load_plugin(plugin, folder, recorded_in=folder / "experiment.yaml")
    changes: list[str] = []
    migrated = {
        key: _migrate(value, Slot(KINDS[key], None), key, changes) if key in KINDS else value
        for key, value in tree.items()
        if key != "format"
    }
    train = migrated.get("train")
    if isinstance(train, Mapping) and OPTIMIZER.kind in train:
        optimizer = _migrate(train[OPTIMIZER.kind], OPTIMIZER, OPTIMIZER_PATH, changes)
        migrated["train"] = {**train, OPTIMIZER.kind: optimizer}
    _rename_experiment(migrated, changes)
    return {"format": renames.current().format, **migrated}, changes


def _rename_experiment(migrated: dict[str, Any], changes: list[str]) -> None:
    """Give what was made of a shipped experiment its present name, or the same command would be refused as another."""
    name = migrated.get("name")
    new = renames.current().experiments.get(name) if isinstance(name, str) else None
    if new is not None:
        migrated["name"] = new
        changes.append(f"name: {name} -> {new}")


def migrate_space(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML data of a search space in the present format.

    Raises ConfigError where the space varies a renamed path: its study knows the trials by the former one.
    """
    if renames.check_format(tree.get("format")) == renames.current().format:
        return dict(tree)
    vary = tree.get("vary") or {}
    if not isinstance(vary, Mapping):
        raise ConfigError("vary", f"{show_value(vary)} is not a mapping")
    for path, domain in vary.items():
        if old := next(_former_names(path, domain), None):
            problem = f"{old!r} has another name now, and the study's trials have this one"
            raise ConfigError(f"vary.{path}", f"{problem}; search anew elsewhere, and migrate best/ alone")
    return {"format": renames.current().format, **{key: value for key, value in tree.items() if key != "format"}}


def _former_names(path: str, domain: Any) -> Iterator[str]:
    table = renames.current()
    knobs = {old for owners in table.knobs.values() for renamed in owners.values() for old in renamed}
    components = {old for renamed in table.components.values() for old in renamed}
    yield from (str(part) for part in paths.split(path) if part in knobs)
    yield from (text for text in _texts(domain) if text in knobs or text in components)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in (*value, *value.values()):
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)


def _migrate(value: Any, slot: Slot, path: str, changes: list[str]) -> Any:
    if slot.many and isinstance(value, list):
        entry = Slot(slot.kind, slot.default)
        return [_migrate(each, entry, f"{path}[{place}]", changes) for place, each in enumerate(value)]
    if isinstance(value, str):
        return _component(value, slot.kind, path, changes)
    if not isinstance(value, Mapping):
        return value
    name = _component(value.get("type") or slot.default, slot.kind, path, changes)
    typed = {**value, "type": name} if "type" in value else dict(value)
    return _knobs(typed, slot.kind, name, path, changes)


def _component(name: Any, kind: str, path: str, changes: list[str]) -> Any:
    new = renames.current().component(kind, name) if isinstance(name, str) else None
    if new is not None:
        changes.append(f"{path}: {name} -> {new}")
    return name if new is None else new


def _knobs(value: Mapping[str, Any], kind: str, name: Any, path: str, changes: list[str]) -> dict[str, Any]:
    if not isinstance(name, str) or name not in names(kind):
        return dict(value)
    renamed, known = renames.current().knobs_of(kind, name), find(kind, name).knobs
    migrated = {}
    for old, entry in value.items():
        key = renamed.get(old, old)
        if key != old:
            changes.append(f"{path}.{old} -> {key}")
        slot = known[key].default if key in known else None
        migrated[key] = _migrate(entry, slot, f"{path}.{key}", changes) if isinstance(slot, Slot) else entry
    return migrated
