"""C++ libraries of the native backends: compiled on first use, cached per user, called through ctypes.

No header of torch is included: a build takes seconds instead of a minute, and does not depend on torch's version. No
binary is distributed, as only the user's compiler knows the user's processor.
"""

from __future__ import annotations

import ctypes
import logging
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from torch import Tensor

from archlab.errors import one_line
from archlab.runtime.build_cache import cached_library
from archlab.runtime.cpu_info import cpu_flags
from archlab.runtime.process import env_switch
from archlab.runtime.toolchain import compiler

_log = logging.getLogger(__name__)
SWITCH = "ARCHLAB_NATIVE"
FLAGS = ("-O3", "-std=gnu++17", "-shared", "-fPIC")
AVX512_FLAGS = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mfma")
BUILD_TIMEOUT_S = 120  # a build takes seconds; a compiler that hangs must not keep a run from starting
_HERE = Path(__file__).parent


@cache
def library(name: str, **constants: int) -> ctypes.CDLL | None:
    """Return the library of `<name>.cpp`, built unless it is cached; None if it cannot be built."""
    return compile_library(_HERE / f"{name}.cpp", **constants)


def compile_library(source: Path, **constants: int) -> ctypes.CDLL | None:
    """Return the library of a file that may include this directory's headers; None if it cannot be built."""
    if unavailable_reason():
        return None
    try:
        return _build(source, tuple(f"-D{key}={n}" for key, n in constants.items()))
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("the C++ backend %s is not built (%s): PyTorch's is used", source.stem, one_line(error))
        return None


def unavailable_reason() -> str:
    """Return why C++ backends are unavailable here, or an empty string."""
    if not env_switch(SWITCH):
        return f"turned off by {SWITCH}=off"
    return "" if compiler() else "no C++ compiler (g++, clang++ or c++)"


def call_kernel(
    library: ctypes.CDLL | None,
    function: str,
    inputs: Iterable[Tensor],
    outputs: Iterable[Tensor],
    sizes: Iterable[int],
    scalars: Iterable[float] = (),
) -> None:
    """Call a function of an available library with pointers to contiguous tensors, then sizes, then scalars."""
    assert library is not None
    tensors = [*(x.contiguous() for x in inputs), *outputs]  # a contiguous copy must live as long as the call
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    # ctypes releases the GIL during the call.
    getattr(library, function)(*pointers, *map(ctypes.c_int64, sizes), *map(ctypes.c_double, scalars))


def _build(source: Path, constants: tuple[str, ...]) -> ctypes.CDLL | None:
    code = "".join(file.read_text(encoding="utf-8") for file in (source, *sorted(_HERE.glob("*.h"))))
    for flags in _flag_sets():
        command = (str(compiler()), *FLAGS, *flags, *constants)
        changed = str(Path(command[0]).stat().st_mtime_ns)  # detects an upgraded compiler of the same path
        file = cached_library("native", source.stem, (code, *command, changed), partial(_compile, source, command))
        if file is not None:
            with suppress(OSError):  # the loader refuses the library: build with fewer flags
                return ctypes.CDLL(str(file))
    return None


def _flag_sets() -> list[tuple[str, ...]]:
    """Return sets of flags to try in order: from all features of this processor to none, with OpenMP or without."""
    native = ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)
    # -march=native of a compiler older than the processor may select an older processor, without AVX-512.
    avx512 = AVX512_FLAGS if cpu_flags() >= {"avx512f", "avx512vl", "avx512dq"} else ()
    return [(*native, *avx512, "-fopenmp"), (*native, "-fopenmp"), ("-fopenmp",), ()]


def _compile(source: Path, command: tuple[str, ...], file: Path) -> Path | None:
    """Compile to a file and return it, or None if the compiler refuses."""
    arguments = [*command, f"-I{_HERE}", str(source), "-o", str(file)]
    done = subprocess.run(arguments, capture_output=True, check=False, timeout=BUILD_TIMEOUT_S)
    return file if done.returncode == 0 else None
