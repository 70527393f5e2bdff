"""An interpreter of Triton kernels for tests without a GPU, faster than Triton's own.

To be imported before archlab: whether kernels are interpreted, and the functions of triton.language with them, is
decided when triton is imported, which torch.utils.flop_counter does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch


def patch_language_once_per_launch() -> None:
    """Skip the interpreter's repeated patching of triton.language, half of the time of a small kernel.

    Private API of triton 3.7: `InterpretedFunction.__call__` runs `_patch_lang` at every call of a device function,
    combine functions of scans included, although the launch around it has already replaced the builtins. Only a
    module's first function in a launch has anything to do: it may see `tl.core`, where the kernel saw `tl`.
    """
    if find_spec("triton") is None:
        return
    from triton.runtime import interpreter

    if hasattr(interpreter, "_patch_lang") and hasattr(interpreter, "_LangPatchScope"):
        interpreter._patch_lang = _once_per_launch(interpreter._patch_lang, interpreter._LangPatchScope)


def _once_per_launch(patch: Callable[..., Any], empty_scope: Callable[[], Any]) -> Callable[..., Any]:
    patched: set[str] = set()

    def patch_once(function: Callable[..., Any]) -> Any:
        if function.__module__ in patched:
            return empty_scope()
        is_launch = not patched
        patched.add(function.__module__)
        scope = patch(function)
        if is_launch:  # the only scope that the interpreter restores: the next launch patches again
            restore = scope.restore
            scope.restore = lambda: (patched.clear(), restore())
        return scope

    return patch_once


if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    patch_language_once_per_launch()
