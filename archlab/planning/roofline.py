"""Roofline time of a training step: each operation takes the time of its FLOPs or of its bytes, whichever is longer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from archlab.modeling.step_trace import OpCost
from archlab.planning.device import Device

# Fused, elementwise operations read and write shared tensors once: about half of the bytes are left. With
# this share the planned gain of compilation matches that of torchtitan's users with Llama 3.1 8B on 8 H100 (16 %).
FUSED_BYTES = 0.54
_MATMULS = (
    *("mm", "bmm", "addmm", "baddbmm", "linear", "matmul", "convolution", "convolution_backward"),
    *("grouped_linear", "grouped_linear_back"),
)


@dataclass(frozen=True)
class StepTime:
    """Seconds of some operations by their bound: arithmetic, memory, and launching them in eager mode."""

    compute: float = 0.0
    memory: float = 0.0
    launch: float = 0.0

    @property
    def total(self) -> float:
        """The seconds in all."""
        return self.compute + self.memory + self.launch


def step_time(ops: Iterable[OpCost], device: Device, *, compiled: bool, share: float = 1.0) -> StepTime:
    """Return the time of operations on a device, of which each does a `share` of the FLOPs and bytes.

    Compiled, elementwise operations are fused: they move FUSED_BYTES of the bytes, and are not launched one by one.
    """
    compute = memory = launch = 0.0
    for op in ops:
        arithmetic = share * (op.flops - op.skipped_flops) / _flops_per_s(op, device)
        movement = share * _bytes(op, compiled) / _bandwidth(op, device, share)
        if arithmetic >= movement:
            compute += arithmetic
        else:
            memory += movement
        launch += 0.0 if compiled and is_fusible(op) else op.calls * device.call_seconds
    if device.kind == "gpu":  # which works while the host launches the next kernels
        launch = max(0.0, launch - compute - memory)
    return StepTime(compute, memory, launch)


def is_fusible(op: OpCost) -> bool:
    """Return whether a compiler fuses an operation with its neighbors: torch's own without a kernel of many steps."""
    return op.name.startswith("aten.") and kind_of(op) == "other"


def kind_of(op: OpCost) -> str:
    """Return matmul, attention, scan or other: the class that limits an operation's share of the peak."""
    base = op.name.removeprefix("aten.").removeprefix("archlab.").split(".")[0]
    if "attention" in base:
        return "attention"
    if "scan" in base:
        return "scan"
    return "matmul" if base in _MATMULS else "other"


def _flops_per_s(op: OpCost, device: Device) -> float:
    kind, efficiency = kind_of(op), device.efficiency
    if kind in ("scan", "other"):  # which have no tensor cores
        share = efficiency.scan if kind == "scan" else None
        return device.flops.float32 * (efficiency.attention if share is None else share)
    peak = device.flops.bfloat16 if op.dtype in (torch.bfloat16, torch.float16) else device.flops.float32
    return peak * (efficiency.matmul if kind == "matmul" else efficiency.attention)


def _bytes(op: OpCost, compiled: bool) -> float:
    return op.bytes * FUSED_BYTES if compiled and is_fusible(op) else op.bytes


def _bandwidth(op: OpCost, device: Device, share: float) -> float:
    is_cached = device.cache_bandwidth is not None and share * op.bytes <= device.cache * max(1, op.calls)
    bandwidth = device.cache_bandwidth if is_cached and device.cache_bandwidth else device.memory_bandwidth
    return bandwidth * device.efficiency.memory
