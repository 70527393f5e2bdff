"""Ahead-of-time compilation for the CPU with AOTInductor: calls run no Python, libraries are cached on disk."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from archlab.inference.tracing import fold_constants, named_constants, trace
from archlab.runtime.build_cache import build_cache_path

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
        # Private in torch 2.13: the runner loads a bare library, and reads weights that the model still owns.
        self._runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(file), 1)
        names = self._runner.get_constant_names_to_original_fqns()
        self._constants = {own: constants[name] for own, name in names.items()}  # not copied: kept alive here
        # (use_inactive, validate_full_update, user_managed): into the active buffer, all of them, without copying.
        self._runner.update_constant_buffer(self._constants, False, True, True)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the module and return its outputs."""
        return self._runner.run(list(inputs))


def _library(program: GraphModule, inputs: tuple[Tensor, ...], constants: dict[str, Tensor]) -> Path:
    """Return the compiled library, from the cache if it is there."""
    file = build_cache_path("ahead", "module", *_cache_key(program, (*inputs, *constants.values())))
    if not file.is_file():
        with tempfile.TemporaryDirectory(dir=file.parent) as partial, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 warns of its own use of pytrees
            options = OPTIONS | {"aot_inductor.output_path": str(Path(partial) / file.name)}
            # Private in torch 2.13: it takes our graph, where the public entry takes a program traced by torch.export.
            library = torch._inductor.aot_compile(program, inputs, options=options)
            os.replace(str(library), file)  # atomic: another process sees the whole library or none
    return file


def _cache_key(program: GraphModule, tensors: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Return everything that a library depends on: graph, shapes, dtypes, strides, torch and its number of threads."""
    kinds = (f"{tensor.dtype}{list(tensor.shape)}{tensor.stride()}" for tensor in tensors)
    return (program.code, *kinds, str(OPTIONS), torch.__version__, str(torch.get_num_threads()))
