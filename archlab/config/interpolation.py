r"""Interpolations: `${path}` in YAML data refers to another value; `\${` is a text that reads `${`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from archlab.errors import ConfigError, one_line

MAX_SIZE = 1_000_000  # of all values in characters: 40 lines that each refer twice to the one before are 10^12
_SCALARS = (bool, int, float, type(None))  # of YAML, beside texts
_OPENING = re.compile(r"(\\*)\$\{")
_REFERENCE = re.compile(r"\$\{(\.*[^.:${}\s][^:${}\s]*)\}")


def interpolate(tree: dict[str, Any]) -> dict[str, Any]:
    """Return YAML data with its interpolations filled in; raise ConfigError naming the path of one that cannot be."""
    try:
        _Sizes(tree).of(tree, ())
        if not _refers(tree):  # as nearly all, in a tenth of the time
            return _fill(tree, tree)
        filled = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except ConfigError:
        raise
    except (OmegaConfBaseException, RecursionError, ValueError, TypeError) as error:
        raise ConfigError(getattr(error, "full_key", None) or "", one_line(error)) from None
    return _fill(tree, filled)


def _refers(data: Any) -> bool:
    """Return whether data may have an interpolation, or types that are none of YAML's, which OmegaConf refuses."""
    if isinstance(data, dict):
        return any(not isinstance(key, str) or _refers(value) for key, value in data.items())
    if isinstance(data, list):
        return any(map(_refers, data))
    return "${" in data if isinstance(data, str) else not isinstance(data, _SCALARS)


class _Sizes:
    """The sizes of a tree's values with their interpolations filled in, found without filling them in."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self._tree, self._known = tree, dict[tuple[Any, ...], int]()

    def of(self, node: Any, path: tuple[Any, ...]) -> int:
        """Return the size of the value at a path; raise ConfigError for one beyond MAX_SIZE."""
        if path not in self._known:
            self._known[path] = 0  # for a circle, which OmegaConf refuses
            self._known[path] = 1 + sum(self._parts(node, path))
        if self._known[path] > MAX_SIZE:
            problem = f"stands for more than {MAX_SIZE:,} characters, interpolations filled in"
            raise ConfigError(".".join(map(str, path)), problem)
        return self._known[path]

    def _parts(self, node: Any, path: tuple[Any, ...]) -> Iterator[int]:
        if isinstance(node, str):
            yield len(node)
            yield from (self._reference_size(match[1], path) for match in _REFERENCE.finditer(node))
        entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in entries:
            yield self.of(value, (*path, key))

    def _reference_size(self, reference: str, path: tuple[Any, ...]) -> int:
        """Return the size of a reference's target: `a.b[0]` from the root, `.b` beside the value itself."""
        above = len(reference) - len(reference.lstrip("."))
        node, place = self._tree, path[: len(path) - above] if above else ()
        try:
            for key in place:
                node = node[key]
            for name in re.findall(r"[^.\[\]]+", reference):
                key = int(name) if isinstance(node, list) else name
                node, place = node[key], (*place, key)
        except (KeyError, IndexError, ValueError, TypeError):  # which OmegaConf names
            return 0
        return self.of(node, place)


def _fill(data: Any, filled: Any) -> Any:
    r"""Take only interpolations from what OmegaConf returns, to which `???` and `\???` are more than texts."""
    if isinstance(data, dict):
        return {key: _fill(value, filled[key]) for key, value in data.items()}
    if isinstance(data, list):
        return [_fill(value, filled[index]) for index, value in enumerate(data)]
    return filled if isinstance(data, str) and "${" in data else data


def escape(data: Any) -> Any:
    """Return YAML data that `interpolate` turns into `data`: each `${` in a text stands for itself."""
    if isinstance(data, dict):
        return {key: escape(value) for key, value in data.items()}
    if isinstance(data, list):
        return [escape(value) for value in data]
    # Backslashes are doubled before `${` alone: anywhere else OmegaConf reads them as they are.
    return _OPENING.sub(r"\1\1\\${", data) if isinstance(data, str) else data
