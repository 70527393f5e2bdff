"""Devices by name: shipped ones, a user's own in a file or a directory, and this machine's CPU."""

from __future__ import annotations

from pathlib import Path

from archlab.config.yaml_files import is_file_name
from archlab.errors import ConfigError, did_you_mean
from archlab.planning.cpu_device import load_cpu
from archlab.planning.device import CPU, SHIPPED, Device, own_folder, read_device


def load_device(name: str, folder: Path = Path()) -> Device:
    """Load a device by its shipped or own name, or by a file relative to `folder`.

    Raises ConfigError for an unknown name, an unknown or missing key, and a value out of range.
    """
    if is_file_name(name):
        return read_device(_existing_devices(folder / name))
    if name == CPU:
        return load_cpu()
    known = device_files()
    if name not in known:
        raise ConfigError("", f"no device {name!r}{did_you_mean(name, known)}")
    return read_device(known[name])


def device_files() -> dict[str, Path]:
    """Return the files of all devices by name; one of the user's own replaces a shipped one."""
    own = own_folder()
    folders = (SHIPPED, *([own] if own is not None else []))
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def _existing_devices(file: Path) -> Path:
    if not file.is_file():
        raise ConfigError("", f"no file {str(file)!r}")
    return file
