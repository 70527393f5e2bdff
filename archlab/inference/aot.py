"""Ahead-of-time compilation for the CPU with AOTInductor: calls run no Python, libraries are cached on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from archlab.inference.tracing import fold_constants, named_constants, trace
from archlab.runtime.build_cache import cached_library
from archlab.runtime.private_apis import aot_compile, load_aot_library

OPTIONS = {
    "memory_planning": True,  # one allocation per call for all intermediate tensors
    # Weights stay outside of the library, so that it serves every model of a shape and is as small for 7 B as for 7 M.
    "always_keep_tensor_constants": True,
    "aot_inductor.package_constants_in_so": False,
}


class AOTModule:
    """A compiled module, traced with example inputs, which it may write to; constants are folded.

    Calls take tensors of the same shapes, dtypes and strides, which are not checked again. Weights changed in place
    later take effect, except in tensors that were computed from weights alone when the module was compiled.
    """

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        program = trace(module, inputs)
        fold_constants(program)
        constants = named_constants(program)
        file = _library(program, inputs, constants)
        self._runner = load_aot_library(file)
        names = self._runner.get_constant_names_to_original_fqns()
        self._constants = {own: constants[name] for own, name in names.items()}  # not copied: kept alive here
        # (use_inactive, validate_full_update, user_managed): into the active buffer, all of them, without copying.
        self._runner.update_constant_buffer(self._constants, False, True, True)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the module and return its outputs."""
        return self._runner.run(list(inputs))


def _library(program: GraphModule, inputs: tuple[Tensor, ...], constants: dict[str, Tensor]) -> Path:
    """Return the compiled library, from the cache if it is there."""
    key = _cache_key(program, (*inputs, *constants.values()))
    file = cached_library("ahead", "module", key, lambda file: aot_compile(program, inputs, file, OPTIONS))
    assert file is not None  # a compiler that fails raises
    return file


def _cache_key(program: GraphModule, tensors: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Return everything that a library depends on: graph, shapes, dtypes, strides, torch and its number of threads."""
    kinds = (f"{tensor.dtype}{list(tensor.shape)}{tensor.stride()}" for tensor in tensors)
    return (program.code, *kinds, str(OPTIONS), torch.__version__, str(torch.get_num_threads()))
