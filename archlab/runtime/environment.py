"""The environment of a measurement: hardware and package versions."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

import archlab
from archlab.runtime.cpu_info import cpu_name, num_cores


def hardware_info() -> dict[str, str | int]:
    """Return the CPU, the cores available to this process, the operating system, and the accelerator if any."""
    facts: dict[str, str | int] = {"processor": cpu_name(), "cores": num_cores(), "system": platform.platform()}
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
