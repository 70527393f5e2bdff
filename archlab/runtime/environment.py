"""Where a measurement was made: the machine, and the versions of what ran on it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

import archlab
from archlab.runtime.cpu_info import cpu_name


def hardware_info() -> dict[str, str | int]:
    """Return the processor, the cores that this process may use, the system, and the accelerator if there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts: dict[str, str | int] = {"processor": cpu_name(), "cores": cores, "system": platform.platform()}
    if torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name()
    return facts


def versions() -> dict[str, str]:
    """Return the versions of archlab, Python, torch and optuna."""
    return {
        "archlab": archlab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optuna": version("optuna"),
    }
