"""Experiments: YAML files that extend one another, take overrides, and resolve to checked data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from archlab.config import paths, renames
from archlab.config.registry import Slot, find, load_plugin, names
from archlab.config.schema import Knob, coerce, reject_unknown
from archlab.config.spec import REPEAT, Spec, knob_at, parse
from archlab.config.train_config import TrainConfig, parse_train, train_knobs
from archlab.config.yaml_files import find_yaml, load_yaml, require_text_keys
from archlab.errors import ConfigError, one_line

SECTIONS = ("name", "description", "model", "task", "train")
KEYS = ("format", "base", "plugins", "override", *SECTIONS)
_NOWHERE = object()
_GIVEN = "experiment"  # what errors and the default name call an experiment that is given as data

Yaml: TypeAlias = "bool | int | float | str | Sequence[Yaml] | Mapping[str, Yaml] | None"
Source: TypeAlias = "str | PathLike[str] | Mapping[str, Yaml]"
KINDS = {"model": "backbone", "task": "task"}


@dataclass(frozen=True)
class Experiment:
    """One resolved YAML: everything that happened can be repeated from it."""

    name: str
    description: str
    model: Spec
    task: Spec
    train: TrainConfig
    plugins: tuple[str, ...]
    source: str

    @property
    def resolved(self) -> dict[str, Any]:
        """The YAML data of this experiment with every default written out."""
        return {
            "format": renames.current().format,
            "name": self.name,
            "description": self.description,
            "plugins": list(self.plugins),
            "model": self.model.to_plain(),
            "task": self.task.to_plain(),
            "train": asdict(self.train),
        }

    def to_yaml(self) -> str:
        """Return the resolved experiment as YAML text."""
        return OmegaConf.to_yaml(OmegaConf.create(self.resolved))


@dataclass(frozen=True)
class UnresolvedExperiment:
    """An experiment's YAML before it is resolved, with the layers that it came from, the last on top."""

    file: str
    tree: dict[str, Any]
    layers: tuple[tuple[str, dict[str, Any]], ...]
    plugins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the file."""
        return Path(self.file).stem

    def get(self, path: str) -> Any:
        """Return the value that stands at a path, or None."""
        return paths.get(self.tree, path)

    def knob(self, path: str) -> Knob | None:
        """Return the knob that a path without `[*]` would set, or None."""
        top, *rest = paths.split(path)
        if top == "train" and len(rest) == 1:
            return train_knobs().get(str(rest[0]))
        if top in KINDS and isinstance(top, str):
            whole = Knob(top, Any, Slot(KINDS[top], None))
            return knob_at(self.get(top) or {}, rest, KINDS[top]) if rest else whole
        return None

    def expand(self, path: str) -> list[str]:
        """Return the paths that `[*]` stands for: those entries that have the knob, or all if none has."""
        every = paths.expand(self.tree, path)
        return [place for place in every if self.knob(place)] or every

    def override(self, values: Mapping[str, Any], source: str) -> UnresolvedExperiment:
        """Return a copy with values set by path.

        A bare component name keeps those knobs of the component that stood there which the new one takes too.
        """
        raw = self
        for path, value in values.items():
            for place in raw._located(path, source):
                raw = raw._override_one(place, value, source)
        return raw

    def _located(self, path: str, source: str) -> list[str]:
        try:
            return self.expand(path)
        except ConfigError as error:
            raise ConfigError(error.path, error.problem, source) from None

    def _override_one(self, place: str, value: Any, source: str) -> UnresolvedExperiment:
        try:
            tree = paths.put(self.tree, place, self._fitted(place, value))
        except ConfigError as error:
            raise ConfigError(error.path, error.problem, source) from None
        return replace(self, tree=tree, layers=(*self.layers, (source, {place: value})))

    def _fitted(self, place: str, value: Any) -> Any:
        knob, old = self.knob(place), self.get(place)
        slot = knob.default if knob else None
        if not isinstance(slot, Slot) or not isinstance(value, str) or not isinstance(old, dict):
            return value
        if value not in names(slot.kind):
            return value
        known = find(slot.kind, value).knobs | ({REPEAT.name: REPEAT} if slot.many else {})
        return {"type": value} | {key: kept for key, kept in old.items() if key in known and _fits(known[key], kept)}

    def resolve(self) -> Experiment:
        """Fill in interpolations and defaults and check every value; raise ConfigError naming file and path."""
        try:
            return _resolve(self)
        except ConfigError as error:
            where = f"{error.path}.{error.key}" if error.key else error.path
            raise ConfigError(error.path, error.problem, error.source or self.origin_of(where)) from error

    @property
    def source(self) -> str:
        """The file that was asked for, and whether values were laid on it."""
        top = self.layers[-1][0]
        return self.file if top == self.file else f"{self.file}, with {top}"

    def origin_of(self, path: str) -> str:
        """Return the file or command that a value at or above a path came from."""
        for source, tree in reversed(self.layers):
            if any(path == key or path.startswith((f"{key}.", f"{key}[")) for key in tree if "." in key):
                return source
            if _reaches(tree, path):
                return source
        return self.layers[0][0]


def _reaches(tree: dict[str, Any], path: str) -> bool:
    try:
        return paths.get(tree, path, missing=_NOWHERE) is not _NOWHERE
    except ConfigError:
        return False


def read(source: Source, overrides: Sequence[str] = (), folder: Path = Path()) -> UnresolvedExperiment:
    """Read an experiment by its name, its file as seen from a folder, or its data; apply `path=value` overrides."""
    if isinstance(source, Mapping):
        raw = _extend(copy_data(source, _GIVEN), folder / _GIVEN, ())
    else:
        raw = _read_file(find_yaml(str(source), folder, "experiments"), ())
    for override in overrides:
        path, value = parse_override(override)
        raw = raw.override({path: value}, "command line")
    return raw


def load(source: Source, overrides: Sequence[str] = ()) -> Experiment:
    """Read, resolve and check an experiment."""
    return read(source, overrides).resolve()


def copy_data(data: Mapping[str, Yaml], name: str) -> dict[str, Any]:
    """Return data given in Python as YAML would give it, so that nothing of the caller's is changed.

    Raises ConfigError for what YAML cannot hold.
    """
    try:
        plain = yaml.safe_load(yaml.safe_dump(dict(data), sort_keys=False))
    except yaml.YAMLError as error:
        raise ConfigError("", f"cannot be written as YAML: {one_line(error)}", name) from None
    require_text_keys(plain, "", Path(name))
    return plain


def _read_file(file: Path, below: tuple[Path, ...]) -> UnresolvedExperiment:
    if file.resolve() in below:
        raise ConfigError("base", f"{file.stem!r} extends itself", str(below[-1]))
    tree = load_yaml(file)
    try:
        return _extend(tree, file, (*below, file.resolve()))
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, error.source or str(file)) from None


def _extend(tree: dict[str, Any], file: Path, chain: tuple[Path, ...]) -> UnresolvedExperiment:
    reject_unknown(tree, KEYS, "")
    renames.check_format(tree.pop("format", None))
    plugins = coerce(_unless_empty(tree.pop("plugins", None), []), list[str], "plugins")
    base, override = tree.pop("base", None), _unless_empty(tree.pop("override", None), {})
    below = None if base is None else _read_base(coerce(base, str, "base"), file.parent, chain)
    for plugin in plugins:
        load_plugin(plugin, file.parent)
    tree = {"name": file.stem} | tree
    raw = UnresolvedExperiment(
        str(file),
        paths.merge(below.tree if below else {}, tree),
        (*(below.layers if below else ()), (str(file), tree)),
        (*(below.plugins if below else ()), *(_absolute(p, file) for p in plugins)),
    )
    return raw.override(_override(override), str(file))


def _read_base(name: str, folder: Path, chain: tuple[Path, ...]) -> UnresolvedExperiment:
    return _read_file(find_yaml(name, folder, "experiments"), chain)


def _override(override: Any) -> dict[str, Any]:
    if not isinstance(override, dict) or not all(isinstance(key, str) for key in override):
        raise ConfigError("override", "is not a mapping of paths to values")
    return override


def _absolute(plugin: str, file: Path) -> str:
    return str((file.parent / plugin).resolve()) if plugin.endswith(".py") else plugin


def parse_override(text: str) -> tuple[str, Any]:
    """Split `path=value`, the value read as YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(text, "is not an override; write path=value", "command line")
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]  # type: ignore[index,call-overload]
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(path, f"{value!r} cannot be read: {one_line(error)}", "command line") from None
    return path, parsed


def _resolve(raw: UnresolvedExperiment) -> Experiment:
    tree = _interpolated(raw.tree)
    reject_unknown(tree, SECTIONS, "")
    for section in KINDS:
        if section not in tree:
            raise ConfigError(section, "is missing: an experiment has a model and a task")
    return Experiment(
        name=_file_name(coerce(tree.get("name", raw.name), str, "name")),
        description=coerce(_unless_empty(tree.get("description"), ""), str, "description"),
        train=parse_train(_unless_empty(tree.get("train"), {})),
        model=parse(tree["model"], KINDS["model"], "model"),
        task=parse(tree["task"], KINDS["task"], "task"),
        plugins=tuple(dict.fromkeys(raw.plugins)),
        source=raw.source,
    )


def _unless_empty(value: Any, default: Any) -> Any:
    """Return the default for a key with nothing behind it."""
    return default if value is None else value


def _fits(knob: Knob, value: Any) -> bool:
    """Tell whether a knob takes a value that another knob of its name has; components and `${...}` are seen later."""
    if isinstance(knob.default, Slot) or (isinstance(value, str) and "${" in value):
        return True
    try:
        coerce(value, knob.type, knob.name)
    except ConfigError:
        return False
    return True


def _file_name(name: str) -> str:
    """Return a name that can be a folder's; raise ConfigError for one that would lead elsewhere."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ConfigError("name", f"{name!r} cannot name a folder")
    return name


def _interpolated(tree: dict[str, Any]) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(OmegaConf.create(tree), resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except (OmegaConfBaseException, RecursionError, ValueError, TypeError) as error:
        raise ConfigError(getattr(error, "full_key", None) or "", one_line(error)) from None
