"""The registry of components, found by directory and file name and imported on first use."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from archlab.config import domains, renames
from archlab.config.component_source import Declaration, UnreadableSource, read_declaration
from archlab.config.docstrings import argument_meanings
from archlab.config.domains import Domain
from archlab.config.param_roles import Param, check_params
from archlab.config.schema import Knob, knobs_of, wiring_of
from archlab.config.tensor_plan import TensorPlan
from archlab.config.text_source import TextSource
from archlab.errors import ArchlabError, ConfigError, did_you_mean, one_line, refuse_failed

Factory: TypeAlias = Callable[..., Any]
Class = TypeVar("Class", bound=type)
# How state crosses ranks: handed on from one to the next, or summarized by each and merged.
Carry: TypeAlias = Literal["relay", "associative"]

_PACKAGE = "archlab.components"
_registered: dict[tuple[str, str], Component] = {}
_declared: dict[tuple[str, str], Component] = {}  # read from their sources


@dataclass(frozen=True)
class Slot:
    """The default of a knob that takes a component; called with the wiring, it builds the default component."""

    kind: str
    default: str | None
    many: bool = False

    def __call__(self, *wiring: Any) -> Any:
        """Build the default component."""
        if self.default is None or self.many:
            raise TypeError(f"this {self.kind} has no default: pass a factory")
        return find(self.kind, self.default).cls(*wiring)


def slot(kind: str, default: str | None = None) -> Any:
    """Declare a knob that takes a component of `kind`; the constructor receives a factory to call with the wiring."""
    return Slot(kind, default)


def slots(kind: str, default: str | None = None) -> Any:
    """Declare a knob that takes a list of components; `repeat: n` in an entry repeats it n times."""
    return Slot(kind, default, many=True)


@dataclass(frozen=True)
class Component:
    """A registered class with its kind and name in YAML, its knobs, its search domains, its parameters' roles and plan.

    If `declaration` is given, read from the source, the class is imported when it is first used.
    """

    kind: str
    name: str
    loaded: type[Any] | None = field(default=None, repr=False, compare=False)
    search: Mapping[str, Domain] = field(default_factory=dict)
    params: Mapping[str, Param] = field(default_factory=dict)
    tensor: TensorPlan | None = None
    carry: Carry = "relay"
    declaration: Declaration | None = field(default=None, repr=False, compare=False)

    @cached_property
    def cls(self) -> type[Any]:
        """The class."""
        if self.loaded is None:
            importlib.import_module(_module(self.kind, self.name))
            return _registered[self.kind, self.name].cls
        return self.loaded

    @cached_property
    def knobs(self) -> dict[str, Knob]:
        """The keyword-only parameters of the constructor."""
        return self.declaration.knobs if self.declaration else knobs_of(self.cls.__init__)

    @property
    def wiring(self) -> list[str]:
        """The positional parameters of the constructor."""
        return list(self.declaration.wiring) if self.declaration else wiring_of(self.cls.__init__)

    @property
    def doc(self) -> str:
        """The docstring."""
        return self.declaration.doc if self.declaration else self.cls.__doc__ or ""

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        return one_line(self.doc)

    @property
    def meanings(self) -> dict[str, str]:
        """The meaning of each knob that a docstring explains: the class's own, or that of its constructor's class."""
        explained = argument_meanings(self._constructor_doc) | argument_meanings(self.doc)
        return {name: text for name, text in explained.items() if name in self.knobs}

    @property
    def _constructor_doc(self) -> str:
        if self.declaration:
            return self.declaration.constructor_doc
        return next((base.__doc__ or "" for base in self.cls.__mro__ if "__init__" in vars(base)), "")


def register(
    kind: str,
    name: str,
    *,
    search: Mapping[str, Domain] | None = None,
    params: Mapping[str, Param] | None = None,
    tensor: TensorPlan | None = None,
    carry: Carry = "relay",
) -> Callable[[Class], Class]:
    """Register a class for `kind: name` in YAML, with the search domains that `auto` selects and its parameters' roles.

    `params` are by name in the class's own module; children that are components declare their own. `tensor` says how
    its code is divided over ranks, and `carry` how its state crosses ranks that divide a context. Raises ArchlabError
    if the name is taken, or a domain is declared for a knob that does not exist.
    """
    check_params(params or {})
    if carry not in get_args(Carry):
        raise ArchlabError(
            f"carry={carry!r} is not one of {', '.join(get_args(Carry))}{did_you_mean(carry, get_args(Carry))}"
        )

    def decorate(cls: Class) -> Class:
        component = Component(kind, name, cls, dict(search or {}), dict(params or {}), tensor, carry)
        if cls.__module__ == _module(kind, name) and (kind, name) in _declared:
            # The component that was read from the source stays the only one of its name, so that specs made before the
            # import and after it are equal.
            component = _declared[kind, name]
            vars(component)["cls"] = cls
        earlier = _registered.get((kind, name))
        # The same class may come again: reloaded in a notebook, or imported under two module names.
        if earlier and _identity(earlier.cls) != _identity(cls):
            raise ArchlabError(f"{kind} {name!r} is registered twice: {_where(earlier.cls)} and {_where(cls)}")
        for knob in component.search:
            if knob not in component.knobs:
                raise ArchlabError(f"{_where(cls)} declares a search domain for {knob!r}, which is not a knob")
        _registered[kind, name] = component
        return cls

    return decorate


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _identity(cls: type) -> tuple[str, str]:
    return (getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__, cls.__qualname__)


# Names that declarations import from archlab.
_PUBLIC = {
    **vars(domains),
    **{"Factory": Factory, "Param": Param, "TensorPlan": TensorPlan, "TextSource": TextSource},
    **{"register": register, "slot": slot, "slots": slots},
}


@cache
def _shipped_names() -> dict[str, list[str]]:
    """Map each kind to its names, the directories and files of the components that come with archlab."""
    package = importlib.import_module(_PACKAGE)
    kinds = [m.name for m in pkgutil.iter_modules(package.__path__) if m.ispkg]
    return {kind: _files(Path(package.__path__[0]) / kind) for kind in kinds}


def _files(folder: Path) -> list[str]:
    return [m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")]


@cache
def _load_entry_points() -> None:
    for point in importlib.metadata.entry_points(group=_PACKAGE):
        with refuse_failed(f"the components of the installed module {point.value!r} cannot be imported"):
            point.load()


def kinds() -> list[str]:
    """Return all kinds of components."""
    return sorted({*_shipped_names(), *(kind for kind, _ in _registered)})


def names(kind: str) -> list[str]:
    """Return the names of the components of a kind."""
    _load_entry_points()
    return sorted({*_shipped_names().get(kind, []), *(n for k, n in _registered if k == kind)})


def find(kind: str, name: Any, path: str = "") -> Component:
    """Return a component by kind and name; raise ConfigError if there is none."""
    if not isinstance(name, str) or name not in names(kind):
        new = renames.current().component(kind, name) if isinstance(name, str) else None
        raise ConfigError(
            path,
            renames.former_name_message(f"{kind} {name!r}", new)
            if new
            else f"no {kind} {name!r}{did_you_mean(name, names(kind))}",
        )
    if (kind, name) in _registered:
        return _registered[kind, name]
    if (kind, name) not in _declared and name in _shipped_names().get(kind, []):
        with suppress(UnreadableSource):
            declaration = read_declaration(_module(kind, name), kind, name, _PUBLIC)
            declared = (declaration.search, declaration.params, declaration.tensor, declaration.carry)
            _declared[kind, name] = Component(kind, name, None, *declared, declaration)
    if (kind, name) in _declared:
        return _declared[kind, name]
    importlib.import_module(_module(kind, name))
    return _registered[kind, name]


def _module(kind: str, name: str) -> str:
    return f"{_PACKAGE}.{kind}.{name}"


def component_of(cls: type) -> Component | None:
    """Return the component of a registered class, or None."""
    return next((component for component in _registered.values() if component.cls is cls), None)


def components(kind: str | None = None) -> list[Component]:
    """Return all components, or those of one kind; raise ConfigError if there is no such kind."""
    if kind is not None and kind not in kinds():
        raise ConfigError("", f"no kind {kind!r}{did_you_mean(kind, kinds())}")
    return [find(each, name) for each in (kinds() if kind is None else [kind]) for name in names(each)]


def forget(module: str) -> None:
    """Remove the components of a module: half-imported, they would be taken for loaded at the next attempt."""
    for key in [key for key, component in _registered.items() if component.cls.__module__ == module]:
        del _registered[key]
