"""Limits of a YAML text, checked before it is loaded: parsers and their callers recurse into what is nested."""

from __future__ import annotations

import yaml

from archlab.errors import ConfigError

MAX_DEPTH = 100  # the deepest experiment that ships has 12 levels
MAX_NODES = 1_000_000  # with each alias counted as all that it stands for
_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def require_bounded(text: str, source: str, path: str = "") -> None:
    """Raise ConfigError for a YAML text that is nested too deeply, or whose aliases stand for too many values.

    What is no YAML raises what yaml.parse raises.
    """
    # Events are parsed without recursion. libyaml's composer recurses on the C stack: 100,000 levels are a segfault.
    sizes: dict[str, int] = {}
    open_nodes = [_Node("")]
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(_Node(event.anchor))
            if len(open_nodes) > MAX_DEPTH:
                line = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
                raise ConfigError(path, f"{line}is nested deeper than {MAX_DEPTH} levels", source)
        elif isinstance(event, yaml.CollectionEndEvent):
            node = open_nodes.pop()
            open_nodes[-1].size += node.size
            if node.anchor:
                sizes[node.anchor] = node.size
        elif isinstance(event, yaml.NodeEvent):
            open_nodes[-1].size += sizes.get(event.anchor or "", 1) if isinstance(event, yaml.AliasEvent) else 1
        if open_nodes[-1].size > MAX_NODES:
            raise ConfigError(path, f"stands for more than {MAX_NODES:,} values", source)


class _Node:
    """A mapping or sequence whose end has not been read, and the number of values in it so far."""

    def __init__(self, anchor: str | None) -> None:
        self.anchor, self.size = anchor, 1
