"""archlab: declare, search, train and export sequence-model architectures.

`archlab.api` holds a function for each verb of the command line, `archlab.interop` reads other
implementations' models.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
_MODULES = ("api", "interop")


def __getattr__(name: str) -> Any:
    """Import a module on first use, so that `import archlab` does not wait for torch."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
