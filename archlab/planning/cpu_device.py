"""The device of this machine's CPU, measured by `archlab plan --calibrate` or estimated from its description."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from archlab.planning.device import CPU, SHIPPED, Device, Flops, own_folder, read_device
from archlab.runtime.cgroups import memory_limit
from archlab.runtime.cpu_info import cpu_flags, cpu_name, num_cores
from archlab.runtime.user_cache import machine_key

# Multiply-adds of a cycle beside those of AVX2, which the shipped file counts; Arm's NEON has half of them.
_WIDTH = {"avx512f": 2.0, "asimd": 0.5}
_BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # without any, bfloat16 products are converted to float32


def load_cpu() -> Device:
    """Return this machine's CPU, as it was calibrated if it was."""
    file = calibrated_file()
    if file is not None and file.is_file():
        return replace(read_device(file), name=CPU)
    own = own_folder()
    if own is not None and (own / f"{CPU}.yaml").is_file():  # a user's own words on it
        return read_device(own / f"{CPU}.yaml")
    return estimate_cpu()


def calibrated_file() -> Path | None:
    """Return the file of this machine's calibration, which need not exist; None where there is no home."""
    folder = own_folder()
    # By machine: a home directory may be shared by unlike machines.
    return folder and folder / f"cpu-{machine_key()}.yaml"


def estimate_cpu() -> Device:
    """Return a CPU by its cores and instruction sets, without a measurement: the shipped file is that of one core."""
    one = read_device(SHIPPED / f"{CPU}.yaml")
    cores, flags = num_cores(), cpu_flags()
    width = next((factor for flag, factor in _WIDTH.items() if flag in flags), 1.0)
    float32 = one.flops.float32 * cores * width
    fast = any(flag in flags for flag in _BFLOAT16_FLAGS)
    bfloat16 = float32 * (2.0 if fast else one.flops.bfloat16 / one.flops.float32)
    return replace(
        one,
        description=f"{cpu_name()}, {cores} cores, uncalibrated",
        flops=Flops(float32, bfloat16),
        memory=total_memory(),
        memory_bandwidth=one.memory_bandwidth * min(cores, 8),  # a few cores saturate a memory controller
        cache_bandwidth=(one.cache_bandwidth or one.memory_bandwidth) * cores,
        threads=cores,
    )


def total_memory() -> float:
    """Return the bytes of memory of this machine, or of its control group."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group = memory_limit()
    return float(machine if group is None else min(machine, group.limit))
