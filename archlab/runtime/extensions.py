"""Extensions by name: modules of a package, and entry points of other installed packages.

All kinds are listed at the end, so that a command line can name them without importing their users.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archlab.errors import refuse_failed


@dataclass(frozen=True)
class Extensions:
    """The objects named `attribute` in the modules of a `package`, and the entry points of a `group`.

    The package, one of archlab's, is named and not imported before one of its modules is asked for, since these may
    import who asks. With `has_hyphens` the names have hyphens, which Python's cannot have, where the modules have
    underscores.
    """

    package: str
    attribute: str
    group: str
    has_hyphens: bool = False

    def names(self) -> list[str]:
        """Return the names of all."""
        return sorted({*self._shipped_modules(), *self._installed_entry_points()})

    def find(self, name: str) -> Any:
        """Return the object of a name, or None if there is none."""
        if module := self._shipped_modules().get(name):
            return getattr(importlib.import_module(f"{self.package}.{module}"), self.attribute)
        point = self._installed_entry_points().get(name)
        if point is None:
            return None
        with refuse_failed(f"{name!r} of the installed module {point.value!r} cannot be imported"):
            return point.load()

    def _shipped_modules(self) -> dict[str, str]:
        """Return the modules of the package by the names of their extensions."""
        _, *rooms = self.package.split(".")
        modules = pkgutil.iter_modules([str(Path(__file__).parents[1].joinpath(*rooms))])
        names = [module.name for module in modules if not module.name.startswith("_")]
        return {name.replace("_", "-") if self.has_hyphens else name: name for name in names}

    def _installed_entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        return {point.name: point for point in importlib.metadata.entry_points(group=self.group)}


EXPORT_FORMATS = Extensions("archlab.interop.exporting.formats", "FORMAT", "archlab.export_formats")
LAUNCHERS = Extensions("archlab.runtime.launchers", "LAUNCHER", "archlab.launchers")
LOGGERS = Extensions("archlab.training.loggers", "LOGGER", "archlab.loggers")
SUITES = Extensions("archlab.inference.suites", "SUITE", "archlab.suites", has_hyphens=True)
