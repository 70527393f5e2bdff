"""The training step: forward and backward over micro-batches, gradient clipping, the optimizer's step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config.experiment import Experiment
from archlab.config.parallel import layout_of
from archlab.data.task import Task
from archlab.errors import ConfigError, TrainingError
from archlab.modeling.activation_checkpointing import apply_activation_checkpointing
from archlab.modeling.budget import resolve_budget
from archlab.modeling.build import build, validate
from archlab.modeling.compile import compile_model, resolve_compile_mode
from archlab.modeling.cost import Cost, estimate_cost
from archlab.modeling.loss import count_targets, training_losses
from archlab.modeling.optimizer import saved_shapes
from archlab.modeling.parametrization import parametrize
from archlab.modeling.state import State, auxiliary_loss, update_sums
from archlab.parallel.carry import Carry, can_carry
from archlab.parallel.check_layout import divide_work, memory_of_rank, require_fit
from archlab.parallel.gradients import clip_gradients, sum_gradients
from archlab.parallel.ranks import Ranks
from archlab.parallel.relay import Relay
from archlab.parallel.session import present_place
from archlab.parallel.shard import shard_model, unshard
from archlab.parallel.tensor import divide_model
from archlab.parallel.update_sums import finish_update
from archlab.runtime.memory import most_used_memory, require_memory
from archlab.runtime.mixed_precision import resolve_precision
from archlab.storage.checkpoint import load_checkpoint
from archlab.training.lr_schedule import lr_multiplier
from archlab.training.optimizer import build_optimizer


def prepare_experiment(
    experiment: Experiment, previous: Mapping[str, str] | None = None, processes: int = 1
) -> Experiment:
    """Check an experiment and return it with every `auto` and a budget but one of seconds resolved, for TrainStep.

    `previous` are settings resolved when the run started, which a resumed run keeps. Raises ArchlabError if model, task
    and context do not fit, if data or device are missing, or if a training step does not fit in memory.
    """
    cost = check_experiment(experiment, processes)
    experiment = resolve_auto(resolve_budget(experiment, cost), cost, previous)
    # By the tensors alone: malloc's fragmentation varies too much to refuse a run for it.
    needed, fixed = memory_of_rank(experiment, cost, layout_of(experiment.parallel, processes))
    local = present_place().local_count if processes > 1 else 1
    require_memory(needed, torch.device(experiment.train.device), fixed=fixed, processes=local)
    return experiment


def check_experiment(experiment: Experiment, processes: int = 1) -> Cost:
    """Raise ArchlabError unless model, task and layout fit, and the task's data can be read; return the cost."""
    layout = layout_of(experiment.parallel, processes)
    task: Task = experiment.task.factory()()
    # First: a model of billions of parameters takes a while even without memory. A task need not derive from Task.
    getattr(task, "require_sources", lambda: None)()
    model = validate(experiment)
    require_fit(experiment, model, layout)
    task.check(experiment.train.context)
    return estimate_cost(experiment, model)


def resolve_auto(experiment: Experiment, cost: Cost, previous: Mapping[str, str] | None = None) -> Experiment:
    """Return the experiment with device, precision and compile resolved for this machine, or as in `previous`.

    Resolving precision measures the device. Raises ConfigError if the device is not available.
    """
    train = replace(experiment.train, **dict[str, Any](previous or {}))
    device = _resolve_device(train.device)
    flops = float(cost.flops_per_token) * cost.tokens_per_step * train.steps
    # Rows of documents have other lengths in every update, for each of which a block would be compiled.
    is_eager = train.compile == "auto" and train.documents == "separate"
    resolved: dict[str, Any] = {
        "device": device.type,
        "precision": resolve_precision(train.precision, device),
        "compile": "off" if is_eager else resolve_compile_mode(train.compile, device, flops),
    }
    return replace(experiment, train=replace(train, **resolved))


def _resolve_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device", "no CUDA device is available; use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


class TrainStep:
    """Model, optimizer and task of an experiment that `prepare_experiment` returned; each call makes one step.

    With several `ranks`, each makes its part of the same step. `model`, on the device, is taken
    in place of one that is built.
    """

    def __init__(self, experiment: Experiment, ranks: Ranks | None = None, model: nn.Module | None = None) -> None:
        self.train, self.step, self.ranks = experiment.train, 0, ranks or Ranks()
        self.device = torch.device(self.train.device)
        self.task: Task = experiment.task.factory()()
        self.work = divide_work(self.train, self.ranks)
        # The default generator draws dropout; checkpoints save its state. Parameters are drawn by a generator of their
        # own and on the CPU, so that a seed gives the same model on every device.
        torch.manual_seed(self.train.seed)
        self.model = model if model is not None else build(experiment.model, "cpu", self.train.seed)
        scales = parametrize(experiment, self.model)
        if self.ranks.layout.tensor > 1:
            divide_model(self.model, self.ranks.tensor_axis)
        if model is None:
            self.model = self.model.to(self.device)
        # Before checkpointing, for which the exchange is a part of the layer.
        self._carry = Carry(self.model, self.ranks.chunk_axis) if self._can_carry() else None
        # Checkpointing replaces the forward of each block, so it comes before compilation, which traces that.
        if self.train.checkpoint_activations:
            apply_activation_checkpointing(self.model, self.train.checkpoint_activations)
        # Dynamo skips a module's call of torch.utils.checkpoint, but traces a forward that is it (torch 2.13).
        hooked = self.ranks.layout.shard > 1 or bool(self.train.checkpoint_activations)
        compile_model(self.model, self.train.compile, hooked=hooked)
        shard_model(self.model, self.ranks)
        # Last: its moments are those of the parameters that are this rank's.
        self.optimizer = build_optimizer(self.model, self.train, scales)
        # Tokens per second of a device that reaches its peak, where that is known.
        self.peak_speed: float | None = None
        self._data_wait_s = 0.0
        self.relay = Relay(self.ranks) if self.ranks.layout.chunk > 1 and self._carry is None else None

    def _can_carry(self) -> bool:
        """Return whether ranks that have a context in pieces compute them at once."""
        # Compiled, ranks would have graphs of their own, which may exchange summaries in another order each.
        return self.ranks.layout.chunk > 1 and self.train.compile == "off" and can_carry(self.model)

    @property
    def _has_end(self) -> bool:
        """Whether this rank has the end of its sequences, whose state has the layers' own losses of all tokens."""
        return self.ranks.chunk_index == self.ranks.layout.chunk - 1

    @property
    def is_relayed(self) -> bool:
        """Whether ranks that have a context in pieces compute them one after the other."""
        return self.relay is not None

    def load(self, folder: Path) -> dict[str, Any]:
        """Restore weights, optimizer, step and random state from a checkpoint; return its other data."""
        shapes = saved_shapes(self.train, self.model)
        state = load_checkpoint(folder, self.model, self.optimizer, shapes)
        self.step = int(state["step"])
        return state

    @property
    def tokens(self) -> int:
        """The number of tokens per optimizer step."""
        return self.train.tokens_per_step

    def __call__(self) -> dict[str, float]:
        """Make one optimizer step and return its record; raise TrainingError if loss or gradients are not finite."""
        begin, lr = time.perf_counter(), self.train.lr * lr_multiplier(self.step, self.train)
        self.model.train()
        loss, sums = self._backward()
        self.ranks.publish(self.step + 1, "reduce")
        sum_gradients(self.model, self.ranks)
        norm = clip_gradients(self.model, math.inf if self.train.clip is None else self.train.clip, self.ranks)
        self._require_finite(loss, norm)  # before the step, which would write NaN into the weights
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        finish_update(self.model, sums, self.ranks)
        self.step += 1
        speed, tokens = self.tokens / (time.perf_counter() - begin), self.step * self.tokens
        figures = {
            "step": self.step,
            "loss": loss,
            "lr": lr,
            "grad_norm": norm,
            "tokens_per_s": speed,
            "tokens": tokens,
        }
        return figures | self._of_the_machine(speed / self.ranks.count)

    def _of_the_machine(self, speed: float) -> dict[str, float]:
        """Return the fields of an update's record about this process and its device, given its tokens/s."""
        share = {} if self.peak_speed is None else {"mfu": speed / self.peak_speed}
        used = {"memory_bytes": most_used_memory(self.device), "data_wait_s": self._data_wait_s}
        return {"tokens_per_s_per_device": speed, **share, **used}

    def _backward(self) -> tuple[float, dict[str, Tensor]]:
        """Accumulate the gradients of the update's micro-batches; return its loss in nats per target.

        And the layers' counts of this rank's sequences, by their paths.

        The loss is one mean over the targets of all micro-batches, not a mean of their means: these differ where
        micro-batches have different numbers of targets. So the targets are counted before the first backward pass, and
        those of all ranks, whose gradients are then summed and not divided again.
        """
        self.ranks.publish(self.step + 1, "data")
        self.ranks.seed(self.train.seed, self.step)
        begin = time.perf_counter()
        batches = [batch for each in range(self.work.accumulate) for batch in self._batches(each)]
        self._data_wait_s = time.perf_counter() - begin
        own_targets = sum(count_targets(targets) for _, targets in batches)
        own_tokens = sum(len(inputs) for inputs, _ in batches) * self.work.context
        num_targets, num_tokens = self.ranks.sum(own_targets, own_tokens)
        if not num_targets:
            problem = f"step {self.step + 1}: no target is asked for in its {len(batches)} batches"
            raise self.ranks.report_once(TrainingError(problem))
        loss, sums = torch.zeros((), device=self.device), dict[str, Tensor]()
        self.ranks.publish(self.step + 1, "compute")

        def forward(inputs: Tensor, targets: Tensor, initial: State | None = None) -> tuple[Tensor, State]:
            nonlocal loss
            total, further, auxiliary, state = self._losses(inputs, targets, initial)
            loss = loss + total.detach() / num_targets
            for path, counted in update_sums(state).items():
                sums[path] = counted * self._has_end + sums.get(path, 0)
            # Layers' own losses are means over tokens, of which every one adds to them, asked for or not. Ranks that
            # divide heads and channels each have their part of the loss: see archlab.ops.rank_sum.
            return ((total + further) / num_targets + auxiliary / num_tokens) / self.ranks.layout.tensor, state

        for inputs, targets in batches:
            if self._carry is not None:
                with self._carry.exchange(inputs.to(self.device)) as initial:
                    forward(inputs, targets, initial)[0].backward()
            elif self.relay is None:
                forward(inputs, targets)[0].backward()
            else:
                count = self.relay.num_pieces(len(inputs))
                pieces = zip(inputs.chunk(count), targets.chunk(count), strict=True)
                self.relay.run(self.model, list(pieces), forward)
        return self.ranks.sum(float(loss))[0], sums  # waits for the device, so once in an update

    def _batches(self, micro_batch: int) -> list[tuple[Tensor, Tensor]]:
        """Return inputs and targets of a micro-batch of this rank, on the CPU."""
        return self.work.batches(self.task, self.step, micro_batch)

    def _losses(self, inputs: Tensor, targets: Tensor, initial: State | None) -> tuple[Tensor, Tensor, Tensor, State]:
        """Return the sums of the loss over the targets, of those of further tokens, and of the layers' own losses."""
        inputs, targets = (tensor.to(self.device, non_blocking=True) for tensor in (inputs, targets))
        unshard(self.model)
        # Its cache would keep every block's weights in bfloat16, and a sharded rank has but one block whole at a time.
        keep, bfloat16 = self.ranks.layout.shard == 1, self.train.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=keep):
            total, further, state = training_losses(self.model, inputs, targets, initial)
        return total, further, auxiliary_loss(state).sum() * self._has_end, state

    def _require_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        problem = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        advice = "try a smaller train.lr, or a longer train.warmup"
        raise self.ranks.report_once(TrainingError(f"step {self.step + 1}: {problem}; {advice}"))
