"""C++ bodies: built once by the machine's own compiler, kept in the user's cache, called through plain C functions.

No header of torch is included, so that a build takes a second or two and fits every version of torch.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from torch import Tensor

from archlab.runtime.build_cache import build_cache_path
from archlab.runtime.cpu_info import cpu_flags
from archlab.runtime.process import env_switch
from archlab.runtime.toolchain import compiler

SWITCH = "ARCHLAB_NATIVE"
FLAGS = ("-O3", "-std=gnu++17", "-shared", "-fPIC")
WIDEST = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mfma")
SECONDS = 120
_HERE = Path(__file__).parent


@cache
def library(name: str, **constants: int) -> ctypes.CDLL | None:
    """Return the library of `<name>.cpp`, built where it is not in the cache; None where it cannot be had."""
    return compile_library(_HERE / f"{name}.cpp", **constants)


def compile_library(source: Path, **constants: int) -> ctypes.CDLL | None:
    """Return the library of a file that may include the bodies' headers; None where it cannot be had."""
    if unavailable_reason():
        return None
    try:
        return _build(source, tuple(f"-D{key}={n}" for key, n in constants.items()))
    except (OSError, subprocess.TimeoutExpired):
        return None


def unavailable_reason() -> str:
    """Return why C++ bodies cannot be had here, or nothing."""
    if not env_switch(SWITCH):
        return f"turned off by {SWITCH}=off"
    return "" if compiler() else "no C++ compiler (g++, clang++ or c++)"


def call_kernel(
    source: ctypes.CDLL | None,
    function: str,
    inputs: Iterable[Tensor],
    outputs: Iterable[Tensor],
    sizes: Iterable[int],
    numbers: Iterable[float] = (),
) -> None:
    """Call a function of a library that is there: with pointers to contiguous tensors, then sizes, then numbers."""
    assert source is not None
    tensors = [*(x.contiguous() for x in inputs), *outputs]  # a contiguous copy must live as long as the call
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    getattr(source, function)(*pointers, *map(ctypes.c_int64, sizes), *map(ctypes.c_double, numbers))


def _build(source: Path, constants: tuple[str, ...]) -> ctypes.CDLL | None:
    code = "".join(file.read_text(encoding="utf-8") for file in (source, *sorted(_HERE.glob("*.h"))))
    for flags in _flag_sets():
        command = (str(compiler()), *FLAGS, *flags, *constants)
        changed = str(Path(command[0]).stat().st_mtime_ns)  # another compiler of the same name
        file = build_cache_path("native", source.stem, code, *command, changed)
        if file.is_file() or _compile(source, command, file):
            try:
                return ctypes.CDLL(str(file))
            except OSError:
                file.unlink(missing_ok=True)
    return None


def _flag_sets() -> list[tuple[str, ...]]:
    """Return the flags to try: all that this processor can do, threads or none."""
    native = ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)
    # A compiler older than the processor takes it for a lesser one.
    widest = WIDEST if cpu_flags() >= {"avx512f", "avx512vl", "avx512dq"} else ()
    return [(*native, *widest, "-fopenmp"), (*native, "-fopenmp"), ("-fopenmp",), ()]


def _compile(source: Path, command: tuple[str, ...], file: Path) -> bool:
    """Build beside the place and move there, so that another process never loads half a file."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        partial = Path(folder) / file.name
        whole = [*command, f"-I{_HERE}", str(source), "-o", str(partial)]
        done = subprocess.run(whole, capture_output=True, check=False, timeout=SECONDS)
        if done.returncode == 0:
            os.replace(partial, file)
        return done.returncode == 0
