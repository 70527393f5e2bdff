"""A corpus that every machine with Python has."""

from __future__ import annotations

import platform
import sysconfig
from typing import Any

from archlab import Count, register
from archlab.data.text_sources import StdlibSource

from ._text import TextTask


@register("task", "stdlib")
class Stdlib(TextTask):
    """Predict the next byte of the Python standard library's sources, split by the SHA-256 of file names.

    The text differs between Python versions; describe() names the version, and the size of each split, used and
    available.

    Args:
        eval_bytes: Bytes of the validation and test splits that are used, from their start; null uses all.
    """

    def __init__(self, *, eval_bytes: Count | None = 524288) -> None:
        super().__init__(StdlibSource(sysconfig.get_path("stdlib")), eval_bytes)

    def describe(self) -> dict[str, Any]:
        """Return the corpus as data, with the version of Python."""
        return {**super().describe(), "python": platform.python_version()}
