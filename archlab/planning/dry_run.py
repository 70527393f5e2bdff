"""A training run tried without memory: whether its layout fits, the memory of each rank, and the plan's error."""

from __future__ import annotations

from dataclasses import dataclass, replace

from archlab.config.experiment import Experiment
from archlab.config.parallel import ParallelConfig, layout_of
from archlab.data.task import Task
from archlab.errors import ArchlabError, ConfigError
from archlab.modeling.build import validate
from archlab.parallel.check_layout import require_fit
from archlab.planning.device import CPU, Device
from archlab.planning.device_files import load_device
from archlab.planning.fake_step import track_update
from archlab.planning.plan import Plan, plan
from archlab.runtime.distributed_env import find_place

CLUSTER = "a100-80g"  # the device of a layout of several, unless another one is named
CLOSE = 0.1  # the share by which plan and tracker may differ


@dataclass(frozen=True)
class TrainingDryRun:
    """The plan of a training run, and the bytes of tensors in an update that was made without memory.

    `tracked_bytes` are those of the rank that has most, by torch's tracker; `missing_data` says which data are missing
    of the data, if anything is.
    """

    plan: Plan
    device: Device
    tracked_bytes: int
    missing_data: str = ""

    @property
    def planned_bytes(self) -> int:
        """The bytes of tensors that the plan has for each rank."""
        return self.plan.memory.tensors

    @property
    def difference(self) -> float:
        """The share by which the plan is above the tracker."""
        return self.planned_bytes / self.tracked_bytes - 1

    @property
    def is_close(self) -> bool:
        """Whether plan and tracker are within a tenth of each other."""
        return abs(self.difference) <= CLOSE

    @property
    def memory(self) -> int:
        """The bytes of a device, by the larger of plan and tracker."""
        return self.plan.memory.total + max(0, self.tracked_bytes - self.planned_bytes)

    @property
    def fits(self) -> bool:
        """Whether the larger of plan and tracker fits the device."""
        return self.memory <= self.plan.device_memory

    @property
    def nodes(self) -> tuple[int, int]:
        """The number of machines, and of processes on each: as many as a machine has devices, or fewer alike."""
        devices = self.plan.devices
        most = self.device.devices_per_node if self.device.kind == "gpu" else devices
        each = max(size for size in range(1, min(most, devices) + 1) if devices % size == 0)
        return devices // each, each


def dry_run(experiment: Experiment, *, device: str | None = None, processes: int | None = None) -> TrainingDryRun:
    """Plan a training run in its layout, and make an update of it without memory.

    `processes` is by default the number of the experiment's `parallel:`. Raises ConfigError for a layout that does not
    fit, and ArchlabError in one of several processes.
    """
    if find_place().count > 1:
        raise ArchlabError("--dry-run is of a command that no launcher has started in several processes")
    count = processes or (experiment.parallel.min_devices if experiment.parallel else 1)
    try:
        layout = layout_of(experiment.parallel, count)
        require_fit(experiment, validate(experiment), layout)
    except ConfigError as error:
        raise ConfigError(error.path, error.problem, error.source or experiment.source) from None
    chosen = load_device(device or (CPU if count == 1 else CLUSTER))
    laid_out = replace(experiment, parallel=ParallelConfig(**layout.to_dict()) if count > 1 else None)
    made = plan(laid_out, device=chosen, devices=count)
    train = replace(experiment.train, precision=made.precision, device=chosen.torch_type)
    return TrainingDryRun(
        made, chosen, track_update(replace(experiment, train=train), layout), _missing_data(experiment)
    )


def _missing_data(experiment: Experiment) -> str:
    task: Task = experiment.task.factory()()
    try:
        getattr(task, "require_sources", lambda: None)()
    except ArchlabError as error:
        return str(error)
    return ""
