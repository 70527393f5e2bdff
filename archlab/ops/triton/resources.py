"""Compile kernels ahead of time for GPUs that need not be present, and read the resources that they use."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from archlab.ops.triton.launch import Launch

# A100, H100, B200 and MI300X; the last number is the threads of a warp.
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float64: "fp64", torch.int64: "i64"}
# Properties of arguments that a launch specializes for: pointers and integers divisible by 16.
_ALIGNED = [["tt.divisibility", 16]]


class Resources(NamedTuple):
    """Resources of one program of a kernel: registers a thread, spilled bytes or registers, shared memory in bytes."""

    registers: int
    spills: int
    shared: int


def kernel_resources(launch: Launch, target: str) -> Resources:
    """Compile a launch's kernel for one of TARGETS, and read its resources from the binary or the assembly."""
    # triton.compile takes a GPUTarget and an ASTSource (triton 3), so that no GPU's driver is needed.
    compiled: Any = triton.compile(_source(launch), target=TARGETS[target], options={"num_warps": launch.num_warps})
    if "cubin" in compiled.asm:
        registers, spills = _of_cubin(compiled.asm["cubin"])
    else:
        registers, spills = _of_assembly(compiled.asm["amdgcn"])
    return Resources(registers, spills, compiled.metadata.shared)


def _source(launch: Launch) -> ASTSource:
    """Return the kernel with the types and constants that a launch with these arguments would compile it for."""
    names = launch.kernel.arg_names
    types = {name: _type(value) for name, value in launch.arguments.items()}
    types |= dict.fromkeys(launch.constants, "constexpr")
    aligned = {(names.index(name),): _ALIGNED for name, value in launch.arguments.items() if _is_aligned(value)}
    constants = {name: x for name, x in launch.arguments.items() if types[name] == "constexpr"} | dict(launch.constants)
    signature = {name: types[name] for name in names}
    return ASTSource(launch.kernel, signature=signature, constexprs=constants, attrs=aligned)


def _type(value: Tensor | float) -> str:
    """Return the type of an argument as Triton has it at a launch, where the integer 1 becomes a constant."""
    if isinstance(value, Tensor):
        return f"*{_TYPES[value.dtype]}"
    if isinstance(value, int) and value == 1:
        return "constexpr"
    return "i32" if isinstance(value, int) else "fp32"


def _is_aligned(value: Tensor | float) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0)


def _of_cubin(cubin: bytes) -> tuple[int, int]:
    """Return the registers per thread, and the bytes of its stack and local memory, to which registers are spilled."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(tool), "--dump-resource-usage", str(file)]
        text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    usage = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return usage["REG"], usage["STACK"] + usage["LOCAL"]


def _of_assembly(assembly: str) -> tuple[int, int]:
    """Return the vector registers per thread, and the number of vector and scalar registers spilled."""
    usage = {name: int(number) for name, number in re.findall(r"\.([sv]gpr(?:_spill)?_count):\s+(\d+)", assembly)}
    return usage["vgpr_count"], usage["vgpr_spill_count"] + usage["sgpr_spill_count"]
