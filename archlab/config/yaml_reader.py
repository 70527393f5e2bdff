"""YAML as archlab reads it: bounded, without tags of other programs, each key once; `yaml_writer` is the inverse."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from archlab.config.yaml_scalars import CONVERSIONS, TAG, add_types
from archlab.errors import ConfigError

MAX_DEPTH = 100
MAX_VALUES = 200_000  # with every alias written out: ten lines of aliases can stand for more than a memory holds
_CLOSED = {"[": SequenceNode, "{": MappingNode, "'": ScalarNode, '"': ScalarNode}  # by their first character


class _Resolver(BaseResolver):
    """The types of plain scalars."""


add_types(_Resolver)


class _Loader(Reader, Scanner, Parser, Composer, _Resolver):
    """PyYAML's parser, with bounds on depth and on the expansion of aliases."""

    def __init__(self, text: str | bytes) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)
        self.level = 0
        self.extents: dict[int, tuple[int, int]] = {}  # number of values and depth of each node, by its id

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:
        """Scan a bracket; the time that the scanner takes grows with the square of their depth."""
        if self.flow_level >= MAX_DEPTH:
            raise _at(self.get_mark(), f"is nested more than {MAX_DEPTH} deep")
        super().fetch_flow_collection_start(TokenClass)

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node; raise ConfigError where it is too deep, too large, or contains itself."""
        event = self.peek_event()
        self.level += 1
        if self.level > MAX_DEPTH:
            raise _at(event.start_mark, f"is nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.level -= 1
        assert node is not None
        if not isinstance(event, yaml.AliasEvent):
            self.extents[id(node)] = self._extent(node)
        elif id(node) not in self.extents:  # it is being composed
            raise _at(event.start_mark, f"the alias {event.anchor!r} contains itself")
        return node

    def _extent(self, node: Node) -> tuple[int, int]:
        extents = [self.extents[id(child)] for child in _children(node)]
        values, depth = 1 + sum(n for n, _ in extents), 1 + max((deep for _, deep in extents), default=0)
        if values > MAX_VALUES:
            raise _at(node.start_mark, f"stands for more than {MAX_VALUES:,} values, aliases written out")
        if depth > MAX_DEPTH:
            raise _at(node.start_mark, f"is nested more than {MAX_DEPTH} deep, aliases written out")
        return values, depth


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def parse_yaml(text: str | bytes) -> Any:
    """Return the data of a YAML document, null for an empty one; raise ConfigError naming line and column."""
    node = _compose(text)
    return None if node is None else _data(node)


# The same files are read again and again: bases of experiments, and the experiment of each trial. `_data` makes new
# data of the nodes each time, a tenth of the work.
@lru_cache(maxsize=128)
def _compose(text: str | bytes) -> Node | None:
    try:
        return _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _at(error.problem_mark, error.problem or error.context or "is no YAML") from None
    except ReaderError as error:
        raise ConfigError("", f"{_line_of(error, text)}{_unreadable(error)}") from None
    except ValueError as error:  # of PyYAML, for an escape beyond Unicode
        raise ConfigError("", f"cannot be read: {error}") from None


def parse_inline(text: str) -> Any:
    """Return the value that a text on one line stands for; raise ConfigError for brackets and quotes that do not fit.

    It is a list or mapping in brackets, a text in quotes, a number, a boolean or null, as in a file. Any other text
    stands for itself: `#`, `: ` and spaces are part of it.
    """
    word = text.strip(" \t\r\n")  # and not other spaces of Unicode, which are texts
    closed = _CLOSED.get(word[:1])
    if closed is None:
        value = _data(ScalarNode(_Resolver().resolve(ScalarNode, word, (True, False)), word))
        return text if isinstance(value, str) else value
    node = _compose(word)
    if (
        node is None or not isinstance(node, closed) or node.end_mark.index < len(word)
    ):  # the rest would be a comment, or a key
        raise ConfigError("", f"more text follows the value that begins with {word[0]}")
    return _data(node)


def _at(mark: Any, problem: str) -> ConfigError:
    return ConfigError("", f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem)


def _line_of(error: ReaderError, text: str | bytes) -> str:
    before = text[: error.position]
    newline: Any = "\n" if isinstance(before, str) else b"\n"
    return f"line {before.count(newline) + 1}: "


def _unreadable(error: ReaderError) -> str:
    if error.encoding != "unicode":
        return f"the byte {error.character:#04x} is no {error.encoding.upper()}"
    return f"the character U+{error.character:04X} has to be written as an escape in double quotes"


def _data(node: Node) -> Any:
    if isinstance(node, MappingNode) and node.tag == f"{TAG}map":
        return _mapping(node)
    if isinstance(node, SequenceNode) and node.tag == f"{TAG}seq":
        return [_data(entry) for entry in node.value]
    convert = CONVERSIONS.get(node.tag.removeprefix(TAG)) if isinstance(node, ScalarNode) else None
    if convert is None:
        raise _at(node.start_mark, f"the tag {_short_tag(node.tag)!r} is not one of !!str, !!int, !!float, !!bool")
    try:
        return convert(node.value)
    except (ValueError, KeyError):
        text = node.value if len(node.value) < 50 else f"{node.value[:40]}..."
        raise _at(node.start_mark, f"{text!r} is no {_short_tag(node.tag)}") from None


def _short_tag(tag: str) -> str:
    return f"!!{tag.removeprefix(TAG)}" if tag.startswith(TAG) else tag


def _mapping(node: MappingNode) -> dict[Any, Any]:
    """Build a mapping; keys of its own come before those that `<<` merges, and are there once."""
    merged: dict[Any, Any] = {}
    own: dict[Any, Any] = {}
    lines: dict[Any, int] = {}
    for key_node, value_node in node.value:
        key = _data(key_node)
        if isinstance(key, dict | list):
            raise _at(key_node.start_mark, "a key is not a text")
        if key in lines:
            raise _at(key_node.start_mark, f"found duplicate key {key}; the first is in line {lines[key]}")
        lines[key] = key_node.start_mark.line + 1
        if key_node.tag == f"{TAG}merge":
            merged = _merge(value_node)
        else:
            own[key] = _data(value_node)
    return {**merged, **own}


def _merge(node: Node) -> dict[Any, Any]:
    """Build the value of a merge key `<<`: a mapping, or a list of mappings whose first has precedence."""
    sources = node.value if isinstance(node, SequenceNode) else [node]
    merged: dict[Any, Any] = {}
    for source in reversed(sources):
        if not isinstance(source, MappingNode):
            raise _at(source.start_mark, "<< merges a mapping or a list of mappings")
        merged |= _mapping(source)
    return merged
