"""The verb on components."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from archlab.api.inputs import StrPath
from archlab.config.experiment import parse_override

if TYPE_CHECKING:
    from archlab.testing import CheckResult


def check(kind: str, name: str, knobs: Sequence[str] = (), *, plugin: StrPath | None = None) -> Iterator[CheckResult]:
    """Run the conformance suite on a component in a small model, and yield the result of each check.

    `knobs` are strings such as `"num_heads=2"`; `plugin` is the Python file that registers the component.
    Raises ConfigError where there is no such component, or the knobs give no model.
    """
    from archlab.config.plugins import load_plugin
    from archlab.testing import checks

    if plugin is not None:
        load_plugin(str(Path(plugin).resolve()), Path(), "--plugin")
    return (case.result() for case in checks(kind, name, **dict(map(parse_override, knobs))))
