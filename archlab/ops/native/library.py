"""C++ bodies: built once by the machine's own compiler, kept in the user's cache, called through plain C functions.

No header of torch is included, so that a build takes a second or two and fits every version of torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from torch import Tensor

FLAGS = ("-O3", "-std=gnu++17", "-shared", "-fPIC")
WIDEST = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mfma")
SECONDS = 120


@cache
def library(name: str) -> ctypes.CDLL | None:
    """Return the library of `<name>.cpp`, built where it is not in the cache; None where it cannot be had."""
    return None if missing() else _build(Path(__file__).with_name(f"{name}.cpp"))


def missing() -> str:
    """Return why C++ bodies cannot be had here, or nothing."""
    if os.environ.get("ARCHLAB_NATIVE") == "off":
        return "turned off by ARCHLAB_NATIVE=off"
    return "" if _compiler() else "no C++ compiler (g++, clang++ or c++)"


def call(source: ctypes.CDLL, function: str, tensors: Iterable[Tensor], sizes: Iterable[int]) -> None:
    """Call a function that takes pointers to contiguous tensors, and then sizes."""
    kept = list(tensors)  # a contiguous copy must live as long as the call
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in kept)
    getattr(source, function)(*pointers, *map(ctypes.c_int64, sizes))


def _compiler() -> str | None:
    found = (shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)
    return next((path for path in found if path), None)


def _build(source: Path) -> ctypes.CDLL | None:
    code = source.read_bytes()
    for flags in _attempts():
        key = hashlib.sha256(b"\0".join((code, *map(str.encode, (*flags, _version(), _processor()))))).hexdigest()[:20]
        file = _folder() / f"{source.stem}-{key}.so"
        if file.is_file() or _compile(code, flags, file):
            try:
                return ctypes.CDLL(str(file))
            except OSError:
                file.unlink(missing_ok=True)
    return None


def _attempts() -> list[tuple[str, ...]]:
    """Return the flags to try: all that this processor can do, threads or none."""
    native = ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)
    # A compiler older than the processor takes it for a lesser one.
    widest = WIDEST if {"avx512f", "avx512vl", "avx512dq"} <= _features() else ()
    return [(*native, *widest, "-fopenmp"), (*native, "-fopenmp"), ("-fopenmp",), ()]


def _compile(code: bytes, flags: tuple[str, ...], file: Path) -> bool:
    """Build beside the place and move there, so that another process never loads half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        built = Path(folder) / file.name
        command = [str(_compiler()), *FLAGS, *flags, "-x", "c++", "-", "-o", str(built)]
        done = subprocess.run(command, input=code, capture_output=True, check=False, timeout=SECONDS)
        if done.returncode == 0:
            os.replace(built, file)
        return done.returncode == 0


@cache
def _folder() -> Path:
    """Return the user's cache, or the system's temporary folder where that cannot be written."""
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "archlab" / "native"
    try:
        cached.mkdir(parents=True, exist_ok=True)
        writable = os.access(cached, os.W_OK)
    except OSError:
        writable = False
    return cached if writable else Path(tempfile.mkdtemp(prefix="archlab-native-"))


@cache
def _version() -> str:
    command = [str(_compiler()), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS).stdout


@cache
def _features() -> set[str]:
    return set(_processor().split())


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("flags")), platform.machine())
