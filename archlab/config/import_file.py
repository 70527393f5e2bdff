"""Import of a Python file that is on no search path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def import_file(file: Path, name: str) -> ModuleType:
    """Run a Python file as the module `name` in sys.modules, which is left as it was where the file raises."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Entered before it runs: dataclasses and torch look a class's module up while the class is created.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
