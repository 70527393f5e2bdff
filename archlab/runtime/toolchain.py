"""Which C++ compiler this process builds with."""

from __future__ import annotations

import os
import shutil


def compiler() -> str | None:
    """Return where the machine's C++ compiler lies: the user's CXX, or one of the usual names."""
    found = (shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name)
    return next((path for path in found if path), None)


def has_cpp_compiler() -> bool:
    """Tell whether torch.compile can build for the CPU."""
    return compiler() is not None
