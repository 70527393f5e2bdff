"""Experiments: YAML files with inheritance and overrides, resolved to validated data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from archlab.config import paths, renames
from archlab.config.alternatives import make_way, make_way_for
from archlab.config.interpolation import escape, interpolate
from archlab.config.libraries import refuse_other_kind
from archlab.config.overrides import parse_override
from archlab.config.parallel import ParallelConfig, parallel_knobs, parse_parallel
from archlab.config.plugin_trust import is_recorded, refuse_resolvers
from archlab.config.plugins import load_plugin
from archlab.config.provenance import Provenance
from archlab.config.registry import Slot, find, names
from archlab.config.schema import Knob, coerce, reject_unknown
from archlab.config.spec import REPEAT, Spec, knob_at, parse
from archlab.config.train_config import OPTIMIZER, OPTIMIZER_PATH, TrainConfig, parse_train, train_knob
from archlab.config.yaml_files import Yaml, copy_data, find_yaml, load_yaml
from archlab.config.yaml_writer import format_yaml
from archlab.errors import ConfigError
from archlab.text import HIDDEN, shorten

SECTIONS = ("name", "description", "model", "task", "train")
OPTIONAL_SECTIONS = ("parallel",)
KEYS = ("format", "base", "plugins", "override", *SECTIONS, *OPTIONAL_SECTIONS)
MAX_NAME = 200  # bytes; file systems take 255, and partial directories have longer names
_DATA_NAME = "experiment"  # the name, in errors and by default, of an experiment that is passed as a mapping

Source: TypeAlias = "str | PathLike[str] | Mapping[str, Yaml]"
KINDS = {"model": "backbone", "task": "task"}


@dataclass(frozen=True)
class Experiment:
    """A resolved and validated experiment, from which a run can be reproduced."""

    name: str
    description: str
    model: Spec
    task: Spec
    train: TrainConfig
    plugins: tuple[str, ...]
    source: str
    parallel: ParallelConfig | None = None

    @property
    def resolved(self) -> dict[str, Any]:
        """The experiment as YAML data with all defaults written out; `load` of it is this experiment again."""
        plain = {
            "name": self.name,
            "description": self.description,
            "plugins": list(self.plugins),
            "model": self.model.to_plain(),
            "task": self.task.to_plain(),
            "train": self.train.to_plain(),
            # Left out where there is none: the experiments of runs from before the section keep their hash.
            **({"parallel": asdict(self.parallel)} if self.parallel else {}),
        }
        return {"format": renames.current().format, **escape(plain)}

    def to_yaml(self) -> str:
        """Return the resolved experiment as YAML text."""
        return format_yaml(self.resolved)


@dataclass(frozen=True)
class UnresolvedExperiment:
    """An experiment's merged YAML before defaults and interpolations, with the provenance of its values."""

    file: str
    tree: dict[str, Any]
    provenance: Provenance
    plugins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the file without its extension."""
        return Path(self.file).stem

    def get(self, path: str) -> Any:
        """Return the value at a path, or None."""
        return paths.get(self.tree, path)

    def knob(self, path: str) -> Knob | None:
        """Return the knob at a path without `[*]`, or None if there is no such knob."""
        top, *rest = paths.split(path)
        if top == "train" and rest[:1] == ["optimizer"] and len(rest) > 1:
            return knob_at(self.get(OPTIMIZER_PATH) or {}, rest[1:], OPTIMIZER.kind, OPTIMIZER.default)
        if top == "train":
            return train_knob(rest)
        if top == "parallel" and len(rest) == 1:
            return parallel_knobs().get(str(rest[0]))
        if top in KINDS and isinstance(top, str):
            whole = Knob(top, Any, Slot(KINDS[top], None))
            return knob_at(self.get(top) or {}, rest, KINDS[top]) if rest else whole
        return None

    def expand(self, path: str) -> list[str]:
        """Return the paths that `[*]` matches: the entries that have the knob, or all if none has it."""
        every = paths.expand(self.tree, path)
        return [one for one in every if self.knob(one)] or every  # with all of them, the error names a real path

    def override(self, values: Mapping[str, Any], source: str) -> UnresolvedExperiment:
        """Return a copy with values set by path.

        A bare component name keeps the knobs of the component it replaces that the new one has as well.
        """
        raw = self
        for path, value in values.items():
            for one in raw._expand(path, source):
                raw = raw._override_one(one, value, source)
        return raw

    def _expand(self, path: str, source: str) -> list[str]:
        try:
            return self.expand(path)
        except ConfigError as error:
            raise ConfigError(error.path, error.problem, source) from None

    def _override_one(self, path: str, value: Any, source: str) -> UnresolvedExperiment:
        try:
            tree = paths.put(make_way_for(self.tree, path, value), path, self._keep_common_knobs(path, value))
        except ConfigError as error:
            raise ConfigError(error.path, error.problem, source) from None
        return replace(self, tree=tree, provenance=self.provenance.add(source, {path: value}))

    def _keep_common_knobs(self, path: str, value: Any) -> Any:
        knob, old = self.knob(path), self.get(path)
        slot = knob.default if knob else None
        if not isinstance(slot, Slot) or not isinstance(value, str) or not isinstance(old, dict):
            return value
        if value not in names(slot.kind):
            return value
        known = {**find(slot.kind, value).knobs, **({REPEAT.name: REPEAT} if slot.many else {})}
        return {"type": value} | {key: old[key] for key in old if key in known and _fits(known[key], old[key])}

    def resolve(self) -> Experiment:
        """Resolve interpolations and defaults and validate every value; raise ConfigError naming file and path."""
        try:
            return _resolve(self)
        except ConfigError as error:
            origin = error.source or self.provenance.origin_of(error.path, error.key)
            raise ConfigError(error.path, error.problem, origin) from error

    @property
    def source(self) -> str:
        """The experiment's file, with the source of the last override if there is one."""
        last = self.provenance.last
        return self.file if last == self.file else f"{self.file}, with {last}"


def read(
    source: Source, overrides: Sequence[str] = (), folder: Path = Path(), *, recorded: bool = False
) -> UnresolvedExperiment:
    """Read an experiment by name, by file relative to `folder`, or from data, and apply `path=value` overrides.

    One that is `recorded` in a run, a search or a checkpoint may be a stranger's: its plugins must be trusted.
    """
    if isinstance(source, Mapping):
        raw = _extend(copy_data(source, _DATA_NAME), folder / _DATA_NAME, (), recorded)
    else:
        raw = _read_file(find_yaml(str(source), folder, "experiments"), (), recorded)
    for override in overrides:
        path, value = parse_override(override)
        raw = raw.override({path: value}, "command line")
    return raw


def load(source: Source, overrides: Sequence[str] = (), *, recorded: bool = False) -> Experiment:
    """Read, resolve and validate an experiment; see `read`."""
    return read(source, overrides, recorded=recorded).resolve()


def _read_file(file: Path, chain: tuple[Path, ...], recorded: bool) -> UnresolvedExperiment:
    if file.resolve() in chain:
        raise ConfigError("base", f"{file.stem!r} extends itself", str(chain[-1]))
    tree = load_yaml(file)
    try:
        return _extend(tree, file, (*chain, file.resolve()), recorded or is_recorded(file))
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, error.source or str(file)) from None


def _extend(tree: dict[str, Any], file: Path, chain: tuple[Path, ...], recorded: bool) -> UnresolvedExperiment:
    refuse_other_kind(tree, "experiments", file)
    reject_unknown(tree, KEYS, "")
    if recorded:
        refuse_resolvers(tree, file)
    renames.check_format(tree.pop("format", None))
    plugins = coerce(_unless_empty(tree.pop("plugins", None), []), list[str], "plugins")
    base, override = tree.pop("base", None), _unless_empty(tree.pop("override", None), {})
    below = None if base is None else _read_base(coerce(base, str, "base"), file.parent, chain, recorded)
    # Before any override: which knobs a path has depends on the components that plugins register.
    for plugin in plugins:
        load_plugin(plugin, file.parent, recorded_in=file if recorded else None)
    tree = {"name": file.stem} | tree
    raw = UnresolvedExperiment(
        str(file),
        paths.merge(make_way(below.tree, tree.get("train")) if below else {}, tree),
        (below.provenance if below else Provenance()).add(str(file), tree),
        (*(below.plugins if below else ()), *(_absolute(p, file) for p in plugins)),
    )
    return raw.override(_require_overrides(override), str(file))


def _read_base(name: str, folder: Path, chain: tuple[Path, ...], recorded: bool) -> UnresolvedExperiment:
    return _read_file(find_yaml(name, folder, "experiments"), chain, recorded)


def _require_overrides(override: Any) -> dict[str, Any]:
    if not isinstance(override, dict) or not all(isinstance(key, str) for key in override):
        raise ConfigError("override", "is not a mapping of paths to values")
    return override


def _absolute(plugin: str, file: Path) -> str:
    return str((file.parent / plugin).resolve()) if plugin.endswith(".py") else plugin


def _resolve(raw: UnresolvedExperiment) -> Experiment:
    tree = interpolate(raw.tree)
    reject_unknown(tree, (*SECTIONS, *OPTIONAL_SECTIONS), "")
    for section in KINDS:
        if section not in tree:
            raise ConfigError(section, "is missing: an experiment has a model and a task")
    return Experiment(
        name=_require_file_name(coerce(tree.get("name", raw.name), str, "name")),
        description=coerce(_unless_empty(tree.get("description"), ""), str, "description"),
        train=parse_train(_unless_empty(tree.get("train"), {})),
        model=parse(tree["model"], KINDS["model"], "model"),
        task=parse(tree["task"], KINDS["task"], "task"),
        plugins=tuple(dict.fromkeys(raw.plugins)),
        source=raw.source,
        parallel=parse_parallel(tree.get("parallel")),
    )


def _unless_empty(value: Any, default: Any) -> Any:
    """Return the default for null, which YAML reads for a key without a value."""
    return default if value is None else value


def _fits(knob: Knob, value: Any) -> bool:
    """Return whether a value is valid for a knob; components and `${...}` are validated when they are resolved."""
    if isinstance(knob.default, Slot) or (isinstance(value, str) and "${" in value):
        return True
    try:
        coerce(value, knob.type, knob.name)
    except ConfigError:
        return False
    return True


def _require_file_name(name: str) -> str:
    """Return a name that can be a directory's; raise ConfigError for a path, or an invalid file name."""
    if name.strip() in ("", ".", "..") or "/" in name or "\\" in name:
        raise ConfigError("name", f"{name!r} cannot name a folder")
    if hidden := HIDDEN.search(name):
        raise ConfigError("name", f"{name!r} cannot name a folder: it has the character U+{ord(hidden[0]):04X}")
    if len(name.encode()) > MAX_NAME:
        raise ConfigError("name", f"{shorten(name, 50)!r} cannot name a folder: it is longer than {MAX_NAME} bytes")
    return name
