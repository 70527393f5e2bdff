"""The error for one process if an experiment's layout needs several."""

from __future__ import annotations

import torch

from archlab.config.experiment import Experiment
from archlab.config.parallel import PATH
from archlab.errors import ConfigError
from archlab.modeling.build import validate
from archlab.modeling.optimizer import optimizer_bytes
from archlab.parallel.session import present_place
from archlab.runtime.memory import available_memory, format_bytes, why_no_setting_helps


def refuse_one_process(experiment: Experiment) -> None:
    """Raise ConfigError for a layout of several devices in one process, and say whether one could train it at all."""
    devices = experiment.parallel.min_devices if experiment.parallel else 1
    if devices == 1 or present_place().count > 1:
        return
    problem = (
        f"a layout of {devices} devices, and this is one process: start {devices} of them with --processes {devices}, "
        f"torchrun or srun, as the same command with --dry-run prints"
    )
    raise ConfigError(PATH, f"{problem}{_in_one(experiment)}", experiment.source)


def _in_one(experiment: Experiment) -> str:
    device = torch.device("cuda" if experiment.train.device != "cpu" and torch.cuda.is_available() else "cpu")
    free = available_memory(device)
    model = validate(experiment)
    with_gradients = 2 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    why = why_no_setting_helps(with_gradients + optimizer_bytes(experiment.train, model), free)
    return f"; in one, on {device} with {format_bytes(free)} free, {why}" if why else "; parallel=null trains in one"
