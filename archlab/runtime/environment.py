"""The environment of a measurement: hardware and package versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch

import archlab
from archlab.runtime.cpu_info import cpu_name


def hardware_info() -> dict[str, str | int]:
    """Return the CPU, the cores available to this process, the operating system, and the accelerator if any."""
    # Affinity and not cpu_count: a container or a scheduler may allow fewer cores than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    facts: dict[str, str | int] = {"processor": cpu_name(), "cores": cores, "system": platform.platform()}
    if torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name()
    return facts


def versions() -> dict[str, str]:
    """Return the versions of archlab, Python, torch and Optuna."""
    return {
        "archlab": archlab.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optuna": version("optuna"),
    }
