"""The C++ compiler."""

from __future__ import annotations

import os
import shutil


def compiler() -> str | None:
    """Return the path of the C++ compiler: CXX of the environment, or the first of the usual names."""
    candidates = (shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name)
    return next((path for path in candidates if path), None)


def has_cpp_compiler() -> bool:
    """Return whether torch.compile can build for the CPU."""
    return compiler() is not None
