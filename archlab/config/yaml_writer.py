"""YAML as archlab writes it, which `yaml_reader` reads back exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from yaml.nodes import ScalarNode

from archlab.config.yaml_scalars import TAG, add_types
from archlab.errors import ConfigError, one_line
from archlab.text import HIDDEN

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


class _Dumper(yaml.SafeDumper):
    """PyYAML's emitter, which quotes texts that this reader or one of YAML 1.1 would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write out values that occur several times."""
        return True

    def write_double_quoted(self, text: str, split: bool = True) -> None:
        """Write a text in double quotes; where a character is hidden, all beyond ASCII are escapes."""
        self.allow_unicode = not HIDDEN.search(text)
        super().write_double_quoted(text, split)
        self.allow_unicode = True


class _InlineDumper(_Dumper):
    """The same on one line."""


class _AsciiDumper(_Dumper):
    """The same with escapes for all that is not ASCII."""

    def write_double_quoted(self, text: str, split: bool = True) -> None:
        """Write a text in double quotes."""
        self.allow_unicode = False
        yaml.SafeDumper.write_double_quoted(self, text, split)


def _in_ascii(dumper: _Dumper, text: str) -> ScalarNode:
    return _in_file(dumper, text) if text.isascii() else dumper.represent_scalar(f"{TAG}str", text, style='"')


def _in_file(dumper: _Dumper, text: str) -> ScalarNode:
    return dumper.represent_scalar(f"{TAG}str", text, style='"' if HIDDEN.search(text.replace("\n", "")) else None)


def _on_one_line(dumper: _Dumper, text: str) -> ScalarNode:
    # Double quotes, which need no escapes between the single ones of a shell.
    return dumper.represent_scalar(f"{TAG}str", text, style=None if _WORD.fullmatch(text) else '"')


_Dumper.add_representer(str, _in_file)
_InlineDumper.add_representer(str, _on_one_line)
_AsciiDumper.add_representer(str, _in_ascii)
for _class in (_Dumper, _InlineDumper, _AsciiDumper):
    add_types(_class)


def format_yaml(data: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """Return data as YAML text, from which `parse_yaml` returns the same data; raise ConfigError for other types."""
    return _dump(dict(data), _AsciiDumper if ascii_only else _Dumper, default_flow_style=False)


def format_inline(data: Any) -> str:
    """Return data as YAML on one line, from which `parse_inline` returns the same data."""
    text = _dump(data, _InlineDumper, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def _dump(data: Any, dumper: type[_Dumper], **options: Any) -> str:
    try:
        return yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True, **options)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError("", f"cannot be written as YAML: {one_line(error)}") from None
