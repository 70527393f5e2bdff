"""A module compiled ahead of time for the CPU: a call runs no Python, and what was built is kept between processes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from archlab.inference.tracing import fold_constants, named_constants, trace
from archlab.runtime.build_cache import build_cache_path
from archlab.runtime.private_apis import aot_compile, load_aot_library

OPTIONS = {
    "memory_planning": True,  # one block of memory for all that lies between input and output
    # A library holds no weight, so that it serves every model of one shape and is as small for 7 B as for 7 M.
    "always_keep_tensor_constants": True,
    "aot_inductor.package_constants_in_so": False,
}


class AOTModule:
    """A module that was traced with these inputs, and may write to them; what follows from weights is computed once.

    Called with tensors of the inputs' shapes, types and strides, which are not looked at again. Weights that change
    later are seen where they are read, not in what was computed from them.
    """

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        program = trace(module, inputs)
        fold_constants(program)
        constants = named_constants(program)
        file = _library(program, inputs, constants)
        self._runner = load_aot_library(file)
        names = self._runner.get_constant_names_to_original_fqns()
        self._constants = {own: constants[name] for own, name in names.items()}  # borrowed: they must live as long
        self._runner.update_constant_buffer(self._constants, False, True, True)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Return the outputs."""
        return self._runner.run(list(inputs))


def _library(program: GraphModule, inputs: tuple[Tensor, ...], constants: dict[str, Tensor]) -> Path:
    """Return the built library, from the cache where it is there."""
    file = build_cache_path("ahead", "module", *_cache_key(program, (*inputs, *constants.values())))
    if not file.is_file():
        with tempfile.TemporaryDirectory(dir=file.parent) as partial:
            os.replace(aot_compile(program, inputs, Path(partial) / file.name, OPTIONS), file)
    return file


def _cache_key(program: GraphModule, tensors: tuple[Tensor, ...]) -> tuple[str, ...]:
    """Return what a library depends on: the graph, its tensors' kinds, torch and its threads."""
    kinds = (f"{tensor.dtype}{list(tensor.shape)}{tensor.stride()}" for tensor in tensors)
    return (program.code, *kinds, str(OPTIONS), torch.__version__, str(torch.get_num_threads()))
