"""Calibration of this machine's CPU: matrix products, attention, memory and eager overhead, measured in a minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from archlab.config.yaml_writer import format_yaml
from archlab.errors import MachineError
from archlab.ops.causal_attention import causal_attention
from archlab.ops.native import register_native_backends
from archlab.planning.cpu_device import calibrated_file, estimate_cpu, total_memory
from archlab.planning.device import Device, Efficiency, Flops
from archlab.runtime.cpu_info import cpu_name
from archlab.runtime.matmul_precision import select_matmul_precision
from archlab.storage.files import write_text

SECONDS = 3.0  # of each measurement; others on the machine only add to a time, so the best of many short calls counts
_PEAK = (512, 512, 512)
# Rows, inputs and outputs of layers of small models, whose products reach less of the peak.
_LAYERS = ((2048, 128, 512), (2048, 512, 128), (1024, 256, 256))
_BFLOAT16_SIZE = 128  # smaller: without bfloat16 instructions a product takes fifty times as long
_ATTENTION = (2, 4, 512, 64)  # batch, heads, tokens, channels
_CACHED, _LARGE, _CHAIN = 2**16, 2**23, 100


def calibrate(seconds: float = SECONDS) -> Path:
    """Measure this machine's CPU with this process's threads and write its device file; return the file.

    Raises MachineError where the user has no directory that can be written to.
    """
    file = calibrated_file()
    if file is None:
        raise MachineError("a calibration has nowhere to be kept: set XDG_CONFIG_HOME to a directory of yours")
    device = measure_cpu(seconds)
    left_out = ("name", "file")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, format_yaml({key: value for key, value in asdict(device).items() if key not in left_out}))
    return file


def measure_cpu(seconds: float = SECONDS) -> Device:
    """Return this machine's CPU as it is measured, `seconds` for each of eight measurements."""
    select_matmul_precision()
    register_native_backends()
    estimate, threads = estimate_cpu(), torch.get_num_threads()
    peak = _matmul_flops_per_s(torch.float32, _PEAK, seconds)
    layers = [_matmul_flops_per_s(torch.float32, shape, seconds / len(_LAYERS)) for shape in _LAYERS]
    peak = max(peak, *layers)
    size = (_BFLOAT16_SIZE,) * 3
    return Device(
        description=f"{cpu_name()}, {threads} threads, calibrated",
        source=f"archlab plan --calibrate, torch {torch.__version__}",
        kind="cpu",
        flops=Flops(float32=peak, bfloat16=_matmul_flops_per_s(torch.bfloat16, size, seconds)),
        memory=total_memory(),
        memory_bandwidth=_bandwidth(_LARGE, seconds),
        links=estimate.links,
        devices_per_node=1,
        reserved=estimate.reserved,
        efficiency=Efficiency(
            matmul=sum(layers) / len(layers) / peak,
            attention=min(1.0, _attention_flops_per_s(seconds) / peak),
            memory=1.0,
            links=estimate.efficiency.links,
            source="measured by archlab plan --calibrate",
        ),
        call_seconds=_call_seconds(seconds),
        cache=estimate.cache,
        cache_bandwidth=_bandwidth(_CACHED, seconds),
        threads=threads,
    )


def _matmul_flops_per_s(dtype: torch.dtype, shape: tuple[int, int, int], seconds: float) -> float:
    rows, inputs, outputs = shape
    a, b = torch.ones(rows, inputs, dtype=dtype), torch.ones(inputs, outputs, dtype=dtype)
    return 2 * rows * inputs * outputs / _best(lambda: a @ b, seconds)


def _attention_flops_per_s(seconds: float) -> float:
    """Return the FLOP/s of causal attention, forward and backward, without the masked half."""
    B, H, T, K = _ATTENTION
    q, k, v = (torch.randn(B, H, T, K, requires_grad=True) for _ in range(3))

    def step() -> None:
        torch.autograd.grad(causal_attention(q, k, v, K**-0.5).sum(), (q, k, v))

    return 7 * B * H * T * T * K / _best(step, seconds)  # seven products of 2 FLOPs, half of each masked


def _bandwidth(size: int, seconds: float) -> float:
    """Return the bytes per second of an addition: two tensors of `size` elements read, one written."""
    x, y = torch.ones(size), torch.ones(size)
    return 3 * x.nbytes / _best(lambda: torch.add(x, y, out=y), seconds)


def _call_seconds(seconds: float) -> float:
    """Return the overhead of an operation on a few elements, forward and backward."""
    x = torch.ones(8, requires_grad=True)

    def chain() -> None:
        y: Tensor = x
        for _ in range(_CHAIN):
            y = y * 1.5
        y.sum().backward()

    return _best(chain, seconds) / (2 * _CHAIN)


def _best(call: Callable[[], object], seconds: float) -> float:
    """Return the shortest time of as many calls as fit into some seconds, three at least, after one to warm up."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)
