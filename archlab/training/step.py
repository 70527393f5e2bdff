"""The training step: forward and backward over micro-batches, gradient clipping, the optimizer's step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config.experiment import Experiment
from archlab.config.parallel import require_one_device
from archlab.data.task import Task
from archlab.errors import ConfigError, TrainingError
from archlab.modeling.budget import resolve_budget
from archlab.modeling.build import build, validate
from archlab.modeling.compile import apply_activation_checkpointing, compile_model, resolve_compile_mode
from archlab.modeling.cost import Cost, estimate_cost
from archlab.modeling.loss import count_targets, total_loss
from archlab.modeling.parametrization import parametrize
from archlab.modeling.state import auxiliary_loss
from archlab.runtime.memory import require_memory
from archlab.runtime.mixed_precision import resolve_precision
from archlab.training.optimizer import build_optimizer, lr_multiplier


def prepare_experiment(experiment: Experiment, previous: Mapping[str, str] | None = None) -> Experiment:
    """Check an experiment and return it with every `auto` and a budget but one of seconds resolved, for TrainStep.

    `previous` are settings resolved when the run started, which a resumed run keeps. Raises ArchlabError if model, task
    and context do not fit, if data or device are missing, or if a training step does not fit in memory.
    """
    cost = check_experiment(experiment)
    experiment = resolve_auto(resolve_budget(experiment, cost), cost, previous)
    # By the tensors alone: what malloc loses between them differs too much to refuse a run for it.
    require_memory(cost.memory_per_device, torch.device(experiment.train.device))
    return experiment


def check_experiment(experiment: Experiment) -> Cost:
    """Raise ArchlabError unless the model fits the task and the task's data can be read; return the cost."""
    require_one_device(experiment.parallel)
    task: Task = experiment.task.factory()()
    # First: a model of billions of parameters takes a while even without memory. A task need not derive from Task.
    getattr(task, "require_sources", lambda: None)()
    model = validate(experiment)
    task.check(experiment.train.context)
    return estimate_cost(experiment, model)


def resolve_auto(experiment: Experiment, cost: Cost, previous: Mapping[str, str] | None = None) -> Experiment:
    """Return the experiment with device, precision and compile resolved for this machine, or as in `previous`.

    Resolving precision measures the device. Raises ConfigError if the device is not available.
    """
    train = replace(experiment.train, **dict[str, Any](previous or {}))
    device = _resolve_device(train.device)
    flops = float(cost.flops_per_token) * cost.tokens_per_step * train.steps
    resolved: dict[str, Any] = {
        "device": device.type,
        "precision": resolve_precision(train.precision, device),
        "compile": resolve_compile_mode(train.compile, device, flops),
    }
    return replace(experiment, train=replace(train, **resolved))


def _resolve_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device", "no CUDA device is available; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class TrainStep:
    """Model, optimizer and task of an experiment that `prepare_experiment` returned; each call makes one step."""

    def __init__(self, experiment: Experiment) -> None:
        self.train, self.step = experiment.train, 0
        self.device = torch.device(self.train.device)
        self.task: Task = experiment.task.factory()()
        # The default generator draws dropout; checkpoints save its state. Parameters are drawn by a generator of their
        # own and on the CPU, so that a seed gives the same model on every device.
        torch.manual_seed(self.train.seed)
        model = build(experiment.model, "cpu", self.train.seed)
        scales = parametrize(experiment, model)
        self.model = model.to(self.device)
        self.optimizer = build_optimizer(self.model, self.train, scales)
        # Checkpointing replaces the forward of each block, so it comes before compilation, which traces that.
        if self.train.checkpoint_activations:
            apply_activation_checkpointing(self.model)
        compile_model(self.model, self.train.compile)

    @property
    def tokens(self) -> int:
        """The number of tokens per optimizer step."""
        return self.train.tokens_per_step

    def __call__(self) -> dict[str, float]:
        """Make one optimizer step and return its record; raise TrainingError if loss or gradients are not finite."""
        begin, lr = time.perf_counter(), self.train.lr * lr_multiplier(self.step, self.train)
        self.model.train()
        loss = self._backward()
        max_norm = math.inf if self.train.clip is None else self.train.clip
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), max_norm))
        self._require_finite(loss, norm)  # before the step, which would write NaN into the weights
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        speed, tokens = self.tokens / (time.perf_counter() - begin), self.step * self.tokens
        return {"step": self.step, "loss": loss, "lr": lr, "grad_norm": norm, "tokens_per_s": speed, "tokens": tokens}

    def _backward(self) -> float:
        """Accumulate the gradients of the update's micro-batches; return its loss in nats per target.

        The loss is one mean over the targets of all micro-batches, not a mean of their means: these differ where
        micro-batches have different numbers of targets. So the targets are counted before the first backward pass.
        """
        batches = [self._batch(micro_batch) for micro_batch in range(self.train.accumulate)]
        num_targets = sum(count_targets(targets) for _, targets in batches)
        if not num_targets:
            raise TrainingError(f"step {self.step + 1}: no target is asked for in its {len(batches)} batches")
        num_tokens = sum(len(inputs) for inputs, _ in batches) * self.train.context
        loss = torch.zeros((), device=self.device)
        for batch in batches:
            total, auxiliary = self._losses(*batch)
            # Layers' own losses are means over tokens, of which every one adds to them, asked for or not.
            (total / num_targets + auxiliary / num_tokens).backward()
            loss = loss + total.detach() / num_targets
        return float(loss)  # waits for the device, so once in an update

    def _batch(self, micro_batch: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a micro-batch, on the CPU."""
        # Batches are a function of this number alone, so that a resumed run reads the same ones.
        number = self.step * self.train.accumulate + micro_batch
        return self.task.batch("train", number, self.train.batch_size, self.train.context, self.train.seed)

    def _losses(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums of the loss over the targets and of the layers' auxiliary losses over the tokens."""
        inputs, targets = (tensor.to(self.device, non_blocking=True) for tensor in (inputs, targets))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.precision == "bfloat16"):
            total, state = total_loss(self.model, inputs, targets)
        return total, auxiliary_loss(state).sum()

    def _require_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        problem = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        raise TrainingError(f"step {self.step + 1}: {problem}; try a smaller train.lr, or a longer train.warmup")
