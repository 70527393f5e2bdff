"""A device that trains, as a YAML file has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from archlab.config.domains import Count, Fraction, NonNegative, Positive
from archlab.config.schema import parse_settings, reject_unknown, settings_of
from archlab.config.yaml_files import load_yaml
from archlab.errors import ConfigError
from archlab.runtime.user_dirs import user_root

SHIPPED = Path(__file__).parent / "devices"
_OF_THE_FILE = ("name", "file")  # which the file itself does not say
CPU = "cpu"


@dataclass(frozen=True)
class Flops:
    """Peak FLOP/s of dense matrix products by dtype."""

    float32: Positive
    bfloat16: Positive


@dataclass(frozen=True)
class Links:
    """Bytes per second that a device sends over its links: to devices of its node, and to other nodes."""

    node: Positive
    network: Positive


@dataclass(frozen=True)
class Reserved:
    """Memory that is not a tensor's: bytes of the context, of communication libraries, share lost by the allocator."""

    context: NonNegative
    communication: NonNegative
    allocator: Fraction


@dataclass(frozen=True)
class Efficiency:
    """Shares of peak FLOP/s and of bandwidths that training reaches, and where they are from.

    `scan` is that of operations whose steps wait for one another, of the peak in float32; by default attention's.
    """

    matmul: Fraction
    attention: Fraction
    memory: Fraction
    links: Fraction
    source: str
    scan: Fraction | None = None


@dataclass(frozen=True)
class Device:
    """A device that trains: peak rates, memory, links, and how much of them training reaches.

    `call_seconds` is the time of launching one operation in eager mode, `cache` the bytes of tensors that stay in the
    processor's cache between operations, at `cache_bandwidth` bytes per second. `reported_as` are parts of the names
    by which its driver calls it.
    """

    description: str
    source: str
    kind: Literal["gpu", "cpu"]
    flops: Flops
    memory: Positive
    memory_bandwidth: Positive
    links: Links
    devices_per_node: Count
    reserved: Reserved
    efficiency: Efficiency
    call_seconds: NonNegative
    cache: NonNegative = 0
    cache_bandwidth: Positive | None = None
    threads: Count | None = None
    reported_as: list[str] | None = None
    name: str = ""
    file: str = ""

    @property
    def torch_type(self) -> Literal["cpu", "cuda"]:
        """The type of torch's device, of AMD's GPUs too."""
        return "cuda" if self.kind == "gpu" else "cpu"


def own_folder() -> Path | None:
    """Return the directory of the user's own devices, which need not exist; None without a home."""
    root = user_root("XDG_CONFIG_HOME", ".config")
    return root and root / "archlab" / "devices"


def read_device(file: Path) -> Device:
    """Read a device from a file; raise ConfigError naming file and path of an unknown, missing or invalid value."""
    try:
        device = parse_device(load_yaml(file))
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, str(file)) from None
    return replace(device, name=file.stem, file=str(file))


def parse_device(tree: Mapping[str, Any]) -> Device:
    """Check the YAML data of a device; raise ConfigError naming the path of an unknown, missing or invalid value."""
    reject_unknown(tree, [key for key in settings_of(Device) if key not in _OF_THE_FILE], "")
    return parse_settings(tree, Device, "")
