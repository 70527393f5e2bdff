"""The meaning of each knob, from the `Args:` section of a component's docstring (Google style)."""

from __future__ import annotations

import inspect
import re

_ENTRY = re.compile(r"(\w+)(?: \([^)]*\))?: (.+)")


def argument_meanings(doc: str) -> dict[str, str]:
    """Return the text of each entry below `Args:`, its lines joined."""
    lines = iter(inspect.cleandoc(doc).splitlines())
    if not any(line.strip() == "Args:" for line in lines):
        return {}
    meanings: dict[str, str] = {}
    indent, name = 0, ""
    for line in lines:  # those after the heading
        text, depth = line.strip(), len(line) - len(line.lstrip())
        if text and depth == 0:
            break
        entry = _ENTRY.fullmatch(text)
        if entry and (not meanings or depth <= indent):
            indent, name = depth, entry[1]
            meanings[name] = entry[2]
        elif text and name:
            meanings[name] += f" {text}"
    return meanings
