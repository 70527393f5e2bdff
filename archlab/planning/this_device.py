"""The peak of the device that this process computes on, where it is known."""

from __future__ import annotations

import torch

from archlab.planning.cpu_device import calibrated_file
from archlab.planning.device import Device, read_device
from archlab.planning.device_files import device_files


def peak_flops(kind: str, precision: str) -> float | None:
    """Return the FLOP/s of this machine's GPU or CPU in a precision; None for a GPU without a file of its own.

    A CPU has a peak once it is calibrated, which is then the measured one.
    """
    device = find_device(kind)
    if device is None:
        return None
    return device.flops.bfloat16 if precision == "bfloat16" else device.flops.float32


def find_device(kind: str) -> Device | None:
    """Return the device file of this machine's GPU or of its calibrated CPU, or None."""
    if kind != "cuda":
        file = calibrated_file()
        return read_device(file) if file is not None and file.is_file() else None
    name = torch.cuda.get_device_name()
    devices = map(read_device, device_files().values())
    return next((each for each in devices if any(part in name for part in each.reported_as or ())), None)
