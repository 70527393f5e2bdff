"""Training: from an experiment to a folder with its metrics, its checkpoints and the trained model."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archlab import checkpoint
from archlab.config import Experiment, load
from archlab.cost import estimate
from archlab.errors import ConfigError, TrainingError
from archlab.evaluate import evaluate
from archlab.execution import checkpoint_activations, compile_model, compile_policy
from archlab.interrupts import uninterrupted
from archlab.loss import mean_loss
from archlab.machine import versions
from archlab.memory import require_memory
from archlab.metrics import MetricsLog
from archlab.metrics import read as read_metrics
from archlab.model import build, check
from archlab.optim import lr_factor, make_optimizer
from archlab.precision import resolve_precision
from archlab.run_folder import last_metrics, open_folder
from archlab.state import auxiliary_loss
from archlab.watch import Silent, Watch


@dataclass(frozen=True)
class Result:
    """Where a finished run lies, and its last metrics."""

    folder: Path
    metrics: dict[str, float] = field(default_factory=dict)


def train(
    experiment: Experiment, folder: Path, *, resume: bool = False, force: bool = False, watch: Watch | None = None
) -> Result:
    """Train an experiment in a folder; `resume` goes on exactly where the last whole checkpoint ended.

    Raises ArchlabError where the folder holds another run, where the model does not fit in memory, or where
    the loss is no longer a number.
    """
    model = check(experiment)
    experiment.task.factory()().check(experiment.train.context)
    costs = estimate(experiment, model)
    experiment = _settled(experiment, folder, 3.0 * costs["flops_per_token"] * costs["tokens_per_step"], resume)
    device = torch.device(experiment.train.device)
    require_memory(costs["memory_per_device"], device)
    open_folder(experiment, folder, resume, force)
    return _Run(experiment, folder, device, resume, watch or Silent()).run()


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device", "no CUDA device is to be seen; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _settled(experiment: Experiment, folder: Path, step_flops: float, resume: bool) -> Experiment:
    """Return the experiment with every `auto` decided, once: a resumed run keeps what was decided at first."""
    train, file = experiment.train, folder / "experiment.yaml"
    earlier = load(file).train if resume and file.is_file() else train
    settings = ("device", "precision", "compile")
    kept: dict[str, Any] = {key: getattr(earlier, key) for key in settings if getattr(train, key) == "auto"}
    train = replace(train, **kept)
    device = _device(train.device)
    settled: dict[str, Any] = {
        "device": device.type,
        "precision": resolve_precision(train.precision, device),
        "compile": compile_policy(train.compile, device, step_flops * train.steps),
    }
    return replace(experiment, train=replace(train, **settled))


class _Run:
    """One training run from its last checkpoint to its end."""

    def __init__(self, experiment: Experiment, folder: Path, device: torch.device, resume: bool, watch: Watch) -> None:
        self.experiment, self.train, self.folder = experiment, experiment.train, folder
        self.device, self.watch = device, watch
        self.task = experiment.task.factory()()
        torch.manual_seed(self.train.seed)
        self.model = build(experiment.model, "cpu", self.train.seed).to(device)
        self.optimizer = make_optimizer(self.model, self.train)
        last = checkpoint.latest(folder / "checkpoints") if resume else None
        kept = checkpoint.restore(last, self.model, self.optimizer) if last else {}
        self.step, self.resumed = int(kept.get("step", 0)), last is not None
        if self.train.checkpoint_activations:
            checkpoint_activations(self.model)
        compile_model(self.model, self.train.compile)

    def run(self) -> Result:
        self.watch.on_start(self.experiment, self.step)
        resume_step = self.step if self.resumed else None
        with MetricsLog(self.folder, tensorboard=self.train.tensorboard, resume_step=resume_step) as log:
            try:
                self._go_on(log)
            except KeyboardInterrupt:
                self._save()
                raise
        checkpoint.publish(self.folder / "final", self.model, self.experiment.resolved, self._provenance())
        return Result(self.folder, last_metrics(self.folder))

    def _go_on(self, log: MetricsLog) -> None:
        """Make the updates that are left, after the evaluation that an interrupted run may still owe."""
        if self.step and not any("val_loss" in r for r in read_metrics(self.folder) if r["step"] == self.step):
            self._evaluate(log)
        while self.step < self.train.steps:
            with uninterrupted():  # half an update, or one without its record, could not be gone on from
                record = self._update()
                self.step += 1
                if _due(self.step, self.train.log_every, self.train.steps):
                    log.append(record)
            self.watch.on_step(record)
            self._evaluate(log)
            if _due(self.step, self.train.checkpoint_every, self.train.steps):
                self._save()

    def _update(self) -> dict[str, Any]:
        begin, lr = time.perf_counter(), self.train.lr * lr_factor(self.step, self.train)
        self.model.train()
        loss = sum(self._backward(part) for part in range(self.train.accumulate))
        limit = math.inf if self.train.clip is None else self.train.clip
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        self._require_finite(loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tokens = self.train.batch_size * self.train.accumulate * self.train.context
        speed = tokens / (time.perf_counter() - begin)
        seen = (self.step + 1) * tokens
        return {"step": self.step + 1, "loss": loss, "lr": lr, "grad_norm": norm, "tokens_per_s": speed, "tokens": seen}

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

    def _evaluate(self, log: MetricsLog) -> None:
        """Measure the validation split where this is due."""
        t = self.train
        if not _due(self.step, t.eval_every, t.steps):
            return
        options: dict[str, Any] = {"batch_size": t.batch_size, "context": t.context, "precision": t.precision}
        measured = evaluate(self.model, self.task, "validation", max_tokens=t.eval_tokens, **options)
        if not math.isfinite(measured["loss"]):
            raise TrainingError(f"step {self.step}: the validation loss is {measured['loss']}; try a smaller train.lr")
        record = {"step": self.step, **{f"val_{name}": measured[name] for name in self.task.metrics}}
        log.append(record)
        self.watch.on_eval(record)

    def _save(self) -> None:
        keep = self.train.keep_checkpoints
        checkpoint.save(self.folder / "checkpoints", self.step, self.model, self.optimizer, {}, keep=keep)

    def _provenance(self) -> dict[str, Any]:
        return {"step": self.step, "versions": versions(), "data": self.task.describe()}


def _due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)
