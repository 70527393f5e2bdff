"""Updates of a model: a batch forward and backward, clipping, the optimizer's step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from archlab.config.experiment import Experiment
from archlab.data.task import Task
from archlab.errors import ConfigError, TrainingError
from archlab.modeling.build import build, validate
from archlab.modeling.compile import apply_activation_checkpointing, compile_model, resolve_compile_mode
from archlab.modeling.cost import estimate_cost
from archlab.modeling.loss import mean_loss
from archlab.modeling.state import auxiliary_loss
from archlab.runtime.memory import require_memory
from archlab.runtime.mixed_precision import resolve_precision
from archlab.training.optimizer import build_optimizer, lr_multiplier


def resolve_auto(experiment: Experiment, previous: Mapping[str, str] | None = None) -> Experiment:
    """Return the experiment with every `auto` decided for this machine, or as it was decided before.

    Raises ArchlabError for a device that is not here, a task without its data, a model that does not fit in memory.
    """
    model = validate(experiment)
    task: Task = experiment.task.factory()()
    task.check(experiment.train.context)
    costs = estimate_cost(experiment, model)
    train = replace(experiment.train, **dict[str, Any](previous or {}))
    device = _device(train.device)
    flops = 3.0 * costs.flops_per_token * costs.tokens_per_step * train.steps
    decided: dict[str, Any] = {
        "device": device.type,
        "precision": resolve_precision(train.precision, device),
        "compile": resolve_compile_mode(train.compile, device, flops),
    }
    require_memory(costs.memory_per_device, device)
    return replace(experiment, train=replace(train, **decided))


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device", "no CUDA device is to be seen; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class TrainStep:
    """A settled experiment's model, optimizer and task; each call makes the next update."""

    def __init__(self, experiment: Experiment) -> None:
        self.train, self.step = experiment.train, 0
        self.device = torch.device(self.train.device)
        self.task: Task = experiment.task.factory()()
        torch.manual_seed(self.train.seed)
        self.model = build(experiment.model, "cpu", self.train.seed).to(self.device)
        self.optimizer = build_optimizer(self.model, self.train)
        if self.train.checkpoint_activations:
            apply_activation_checkpointing(self.model)
        compile_model(self.model, self.train.compile)

    @property
    def tokens(self) -> int:
        """Return how many tokens an update reads."""
        return self.train.batch_size * self.train.accumulate * self.train.context

    def __call__(self) -> dict[str, Any]:
        """Make one update; return its metrics. Raises TrainingError where the loss is no longer a number."""
        begin, lr = time.perf_counter(), self.train.lr * lr_multiplier(self.step, self.train)
        self.model.train()
        loss = sum(self._backward(part) for part in range(self.train.accumulate))
        limit = math.inf if self.train.clip is None else self.train.clip
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        self._require_finite(loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        speed, seen = self.tokens / (time.perf_counter() - begin), self.step * self.tokens
        return {"step": self.step, "loss": loss, "lr": lr, "grad_norm": norm, "tokens_per_s": speed, "tokens": seen}

    def _backward(self, part: int) -> float:
        """Add one micro-batch's gradients; return its share of the loss, in nats per token."""
        number = self.step * self.train.accumulate + part
        batch = self.task.batch("train", number, self.train.batch_size, self.train.context, self.train.seed)
        inputs, targets = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.train.precision == "bfloat16"):
            loss, state = mean_loss(self.model, inputs, targets)
        added = auxiliary_loss(state).mean() / self.train.context
        ((loss + added) / self.train.accumulate).backward()
        return float(loss.detach()) / self.train.accumulate

    def _require_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        raise TrainingError(f"step {self.step + 1}: {what}; try a smaller train.lr, or a longer train.warmup")
