"""The state of a training run beside its tensors: state.json, and the random number generators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError, one_line
from archlab.storage.json_values import is_count


@dataclass(frozen=True)
class RunState:
    """The number of optimizer steps, the caller's `extra` data, and the optimizer's parameter groups."""

    step: int
    extra: dict[str, Any]
    optimizer: list[dict[str, Any]]


def read_state(file: Path) -> RunState:
    """Return the content of a checkpoint's state.json; raise ArchlabError naming it if it is damaged."""
    what = "the state of a checkpoint"
    data = read_object(file, what)
    step, extra, groups = (data.get(key) for key in ("step", "extra", "optimizer"))
    if not is_count(step) or not isinstance(extra, dict) or not isinstance(groups, list):
        raise ArchlabError(f"{file}: is not {what}: step, extra or optimizer is missing, or not of its type")
    if file.parent.name != (name := f"step_{step:08d}"):
        raise ArchlabError(f"{file}: its step is {step}, but its directory is named {file.parent.name} and not {name}")
    for group in groups:
        params = group.get("params") if isinstance(group, dict) else None
        if not isinstance(params, list) or not all(isinstance(name, str) for name in params):
            raise ArchlabError(f"{file}: is not {what}: a group of its optimizer lists no parameters")
    return RunState(step, extra, groups)  # type: ignore[arg-type]


def random_states() -> dict[str, Tensor]:
    """Return the states of torch's default random number generators by device."""
    # is_initialized and not is_available: asking for the state would create a CUDA context in a run on the CPU.
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), **{f"cuda.{index}": state for index, state in enumerate(on_gpu)}}


def check_random_states(states: Mapping[str, Tensor], file: Path) -> None:
    """Raise ArchlabError for states that a generator does not take."""
    if "cpu" not in states:
        raise ArchlabError(f"{file}: holds no state of the CPU's random number generator")
    for name, state in states.items():
        try:
            # A run may continue where there are fewer GPUs, whose states are then not restored.
            if name == "cpu" or _index(name) < torch.cuda.device_count():
                torch.Generator(name.replace(".", ":")).set_state(state)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ArchlabError(f"{file}: {name!r} is not a state of a generator: {one_line(error)}") from error


def _index(name: str) -> int:
    device, _, index = name.partition(".")
    if device != "cuda" or not index.isdecimal():
        raise ValueError("no device has this name")
    return int(index)


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Restore the result of `random_states`, for the devices that this machine has."""
    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda.{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda.{index}"], index)
