"""Paths of a search space: `[*]` is every layer alike, `[each]` every layer by itself, `[m]` a pattern's layers m."""

from __future__ import annotations

import re

from archlab.config import paths
from archlab.errors import ConfigError

EACH = "each"
_SELECTOR = re.compile(r"\[(?:each|[A-Za-z])\]")
_WILDCARD = re.compile(r"\[(?:\*|each|[A-Za-z])\]")


def split(path: str) -> list[paths.Part]:
    """Split a path into keys and indices; a selector is the part `[each]` or `[m]`, which no key can be."""
    try:
        parts = paths.split(_SELECTOR.sub("[*]", path))
    except ConfigError as error:
        raise ConfigError(path or "''", error.problem) from None
    wildcards = iter(_WILDCARD.findall(path))
    return [_wildcard(next(wildcards, "")) if part == "*" else part for part in parts]


def _wildcard(text: str) -> str:
    return "*" if text in ("", "[*]") else text


def join(parts: list[paths.Part]) -> str:
    """Join keys, indices and selectors to a path, the inverse of `split`."""
    text = "".join(str(p) if is_selector(p) else f"[{p}]" if is_index(p) or p == "*" else f".{p}" for p in parts)
    return text.removeprefix(".")


def is_index(part: paths.Part) -> bool:
    """Whether a part of a path is the index of one entry."""
    return isinstance(part, int)


def is_selector(part: paths.Part) -> bool:
    """Whether a part of a path is `[each]` or the letter of a pattern."""
    return isinstance(part, str) and part.startswith("[")


def first_selector(path: str) -> tuple[str, str, str] | None:
    """Return the list, the selector's name and the whole rest of a path, or None if it has no selector."""
    parts = split(path)
    index = next((i for i, part in enumerate(parts) if is_selector(part)), None)
    if index is None:
        return None
    return join(parts[:index]), str(parts[index])[1:-1], join(parts[index + 1 :]) if parts[index + 1 :] else ""


def is_each(path: str) -> bool:
    """Whether a path stands for a value of every layer by itself."""
    return f"[{EACH}]" in split(path)


def has_wildcard(path: str) -> bool:
    """Whether a path may stand for several values."""
    return any(part == "*" or is_selector(part) for part in split(path))


def at_index(path: str, index: int) -> str:
    """Return a path with the index of one layer in place of its selector."""
    return join([index if is_selector(part) else part for part in split(path)])


def matches(above: paths.Part, below: paths.Part) -> bool:
    """Whether two parts of paths can be the same entry."""
    if above == below:
        return True
    if _is_letter(above) and _is_letter(below):
        return False
    wild = [part == "*" or is_selector(part) for part in (above, below)]
    return any(wild) and all(is_index(p) or is_wild for p, is_wild in zip((above, below), wild, strict=True))


def _is_letter(part: paths.Part) -> bool:
    return is_selector(part) and part != f"[{EACH}]"


def is_prefix(path: str, other: str) -> bool:
    """Whether a path is another one, or above it, wildcards standing for any index."""
    above, below = split(path), split(other)
    return len(above) <= len(below) and all(map(matches, above, below))


def is_ancestor(path: str, other: str) -> bool:
    """Whether a path is above another one, wildcards standing for any index."""
    return len(split(path)) < len(split(other)) and is_prefix(path, other)


def specificity(path: str) -> float:
    """Return an order of paths of one depth: `[*]` before `[m]`, before `[each]`, before `[0]`."""
    return sum(1.0 if is_index(part) else _selector_rank(part) for part in split(path))


def _selector_rank(part: paths.Part) -> float:
    if not is_selector(part):
        return 0.0
    return 0.5 if part == f"[{EACH}]" else 0.25
