"""The plan of a training run: memory and time of a device, before anything is allocated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from archlab.config.experiment import Experiment
from archlab.config.parallel import Layout
from archlab.config.train_config import Precision, TrainConfig
from archlab.modeling.backbone import is_causal, is_per_sample
from archlab.modeling.build import validate
from archlab.modeling.compile import resolve_compile_mode
from archlab.modeling.optimizer import update_rule
from archlab.modeling.step_trace import StepTrace
from archlab.planning.device import SHIPPED, Device
from archlab.planning.device_files import load_device
from archlab.planning.layouts import Proposal, fits, propose, require_divisible
from archlab.planning.sharded_step import MemoryTerms, Setting, ShardedStep, TimeTerms, shard_step
from archlab.planning.workload import Workload
from archlab.runtime.mixed_precision import MIN_SPEEDUP

DAY = 86400.0


@dataclass(frozen=True)
class Plan:
    """The cost of training an experiment: sizes in bytes, times in seconds of an update, days for `tokens`.

    `flops_per_token` counts forward and backward pass; `mfu` is the share of the peak that three forward passes take.
    `layout` is the experiment's, or the fastest that fits (`proposed`); where none `fits`, it is the one of least
    memory, and `enough_devices` would do.
    """

    name: str
    device: str
    devices: int
    layout: Layout
    proposed: bool
    fits: bool
    enough_devices: int | None
    precision: Precision
    compile: str
    micro_batch: int
    accumulate: int
    context: int
    params: int
    params_non_embedding: int
    params_active: int
    params_by_part: dict[str, int]
    flops_per_token: int
    flops_per_token_forward: int
    bytes_per_token: int
    state_bytes: int
    max_state_bytes: int
    memory: MemoryTerms
    device_memory: int
    time: TimeTerms
    tokens_per_update: int
    mfu: float
    mfu_source: str
    tokens: float
    checkpoint_bytes: int
    notes: tuple[str, ...]

    @property
    def memory_per_device(self) -> int:
        """The bytes of one device at the peak of a step; on a CPU, those resident, interpreter included."""
        return self.memory.total

    @property
    def seconds_per_update(self) -> float:
        """The seconds of an optimizer step."""
        return self.time.total

    @property
    def tokens_per_s(self) -> float:
        """The tokens per second of all devices together."""
        return self.tokens_per_update / self.seconds_per_update

    @property
    def days(self) -> float:
        """The days that the token budget takes."""
        return self.tokens / self.tokens_per_s / DAY

    @property
    def device_hours(self) -> float:
        """The hours of the token budget, times the devices."""
        return self.days * 24 * self.devices

    def to_dict(self) -> dict[str, object]:
        """Return the plan as JSON data."""
        derived = ("memory_per_device", "seconds_per_update", "tokens_per_s", "days", "device_hours")
        return {**asdict(self), "notes": list(self.notes), **{name: getattr(self, name) for name in derived}}


def plan(
    experiment: Experiment, *, device: str | Device = "cpu", devices: int | None = None, tokens: float | None = None
) -> Plan:
    """Plan the training of an experiment on devices of a kind, by default the layout's number of them, or one.

    `tokens` is the budget, by default that of the experiment's steps. For another number of devices than the layout's
    one is proposed, as without a layout. Raises ConfigError for an unknown device, and for a layout that does not
    divide the sequences of an update.
    """
    device = load_device(device) if isinstance(device, str) else device
    parallel = experiment.parallel
    devices = devices or (parallel.min_devices if parallel else 1)
    layout = parallel.layout(devices) if parallel and parallel.fits(devices) else None
    experiment = _resolve(experiment, device)
    model = validate(experiment)
    setting = _setting(experiment, model, device)
    proposal = _propose(setting, devices, layout)
    return _plan(experiment, setting, proposal, devices, layout is None, tokens)


def _resolve(experiment: Experiment, device: Device) -> Experiment:
    """Return the experiment with precision and operations as they would be on a device."""
    train = experiment.train
    precision: Precision = train.precision
    if precision == "auto":
        is_faster = device.flops.bfloat16 >= MIN_SPEEDUP * device.flops.float32
        precision = "bfloat16" if is_faster else "float32"
    return replace(experiment, train=replace(train, precision=precision, device=device.torch_type))


def _compile_mode(train: TrainConfig, device: Device, trace: StepTrace) -> str:
    steps = train.steps * train.batch_size * train.accumulate * train.context
    return resolve_compile_mode(train.compile, torch.device(device.torch_type), float(trace.flops_per_token) * steps)


def _setting(experiment: Experiment, model: nn.Module, device: Device) -> Setting:
    workload = Workload(experiment, model)
    return Setting(
        experiment=experiment,
        workload=workload,
        device=device,
        compiled=_compile_mode(experiment.train, device, workload.trace) != "off",
        can_chunk=is_causal(model) and not is_per_sample(model),
    )


def _propose(setting: Setting, devices: int, layout: Layout | None) -> Proposal:
    if layout is None:
        return propose(setting, devices)
    require_divisible(setting, layout)
    step = shard_step(setting, layout)
    return Proposal(step, fits(setting, step), None if fits(setting, step) else propose(setting, devices).enough)


def _plan(
    experiment: Experiment, setting: Setting, proposal: Proposal, devices: int, proposed: bool, tokens: float | None
) -> Plan:
    train, device, trace, step = experiment.train, setting.device, setting.workload.trace, proposal.step
    tokens_per_update = train.batch_size * train.accumulate * train.context
    return Plan(
        name=experiment.name,
        device=device.name,
        devices=devices,
        layout=step.layout,
        proposed=proposed,
        fits=proposal.fits,
        enough_devices=proposal.enough,
        precision=train.precision,
        compile=_compile_mode(train, device, trace),
        micro_batch=step.micro_batch,
        accumulate=step.accumulate,
        context=train.context,
        params=trace.params,
        params_non_embedding=trace.params_non_embedding,
        params_active=trace.params_active,
        params_by_part=dict(trace.params_by_part),
        flops_per_token=trace.flops_per_token,
        flops_per_token_forward=trace.flops_per_token_forward,
        bytes_per_token=sum(op.bytes for op in trace.ops if op.phase != "optimizer") // trace.tokens,
        state_bytes=trace.state_bytes,
        max_state_bytes=trace.max_state_bytes,
        memory=step.memory,
        device_memory=round(device.memory),
        time=step.time,
        tokens_per_update=tokens_per_update,
        mfu=_mfu(trace, setting, step, tokens_per_update),
        mfu_source=device.efficiency.source,
        tokens=tokens if tokens is not None else float(train.steps * tokens_per_update),
        checkpoint_bytes=trace.weight_bytes * (1 + update_rule(train).averages) + trace.optimizer_bytes,
        notes=(*_notes(device), *_layout_notes(experiment, devices)),
    )


def _layout_notes(experiment: Experiment, devices: int) -> list[str]:
    parallel = experiment.parallel
    if parallel is None or parallel.fits(devices):
        return []
    return [f"the experiment's own layout is of {parallel.min_devices:,} devices"]


def _mfu(trace: StepTrace, setting: Setting, step: ShardedStep, tokens: int) -> float:
    """Return the model's FLOPs, without recomputed ones, as a share of the peak in the dtype of its products."""
    flops = setting.device.flops
    peak = flops.bfloat16 if setting.experiment.train.precision == "bfloat16" else flops.float32
    return trace.flops_per_token * tokens / step.time.total / step.layout.devices / peak


def _notes(device: Device) -> tuple[str, ...]:
    # The path of a shipped file is not informative, and as long as the installation path.
    file = "" if Path(device.file).parent == SHIPPED else f" ({device.file})"
    notes = [f"{device.name}: {device.description}{file}"]
    if device.threads and device.threads != torch.get_num_threads():
        notes.append(f"its figures are of {device.threads} threads, and this process has {torch.get_num_threads()}")
    return tuple(notes)
