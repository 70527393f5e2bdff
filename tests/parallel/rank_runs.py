"""What a test has the processes of a pool do: train, with something that goes wrong in one of them."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config.experiment import load
from archlab.config.parallel import Layout
from archlab.ops.split_cross_entropy import split_cross_entropy
from archlab.parallel.ranks import Ranks
from archlab.parallel.session import Session
from archlab.runtime.signals import Stopped
from archlab.storage import part_save
from archlab.storage.checkpoint import load_checkpoint
from archlab.training import trainer
from archlab.training.callbacks import Callback
from archlab.training.saving import Saver
from archlab.training.step import TrainStep


class Failing(Callback):
    """Does something after an update."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    def on_step(self, record: Any) -> None:
        if record["step"] == self.step:
            self.act()


def train_in_ranks(session: Session, file: Path, overrides: list[str], out: Path, options: dict[str, Any]) -> str:
    """Train, with `fail` in the rank `at`; return how it ended in this rank."""
    options = dict(options)
    fail, at, stop_at = options.pop("fail", None), options.pop("at", 0), options.pop("stop_at", 4)
    undo = FAILURES[fail]() if fail and session.place.rank == at else lambda: None
    callbacks = [Failing(stop_at, interrupt)] if fail == "interrupt" else []
    try:
        trainer.train(load(file, overrides), out, callbacks=callbacks, **options)
    except BaseException as error:
        number = f" {signal.Signals(error.number).name}" if isinstance(error, Stopped) else ""
        return f"{type(error).__name__}{number}: {'; '.join([str(error), *getattr(error, '__notes__', [])])}"
    finally:
        undo()
    return "done"


def interrupt() -> None:
    raise KeyboardInterrupt


def _losses_nan() -> Callable[[], None]:
    whole = TrainStep._losses

    def spoiled(self: TrainStep, *arguments: Any) -> Any:
        total, *rest = whole(self, *arguments)
        return total * (float("nan") if self.step == 4 else 1.0), *rest

    TrainStep._losses = spoiled  # type: ignore[method-assign]
    return lambda: setattr(TrainStep, "_losses", whole)


def _disk_full() -> Callable[[], None]:
    return _at_write(3, lambda: os_error(errno.ENOSPC))


def os_error(number: int) -> None:
    raise OSError(number, os.strerror(number))


def _at_write(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Act in the middle of the file of this number that a rank writes; it writes two for each checkpoint."""
    whole, calls = part_save.stream_tensors, []

    def spoiled(file: Path, *arguments: Any) -> Any:
        calls.append(file)
        if len(calls) == number:
            file.write_bytes(b"half")
            act()
        return whole(file, *arguments)

    part_save.stream_tensors = spoiled
    return lambda: setattr(part_save, "stream_tensors", whole)


def _killed_at_write() -> Callable[[], None]:
    return _at_write(4, kill)


def _killed_at_update() -> Callable[[], None]:
    TrainStep._backward = lambda self: kill() if self.step == 4 else _backward(self)  # type: ignore[method-assign]
    return lambda: None


_backward = TrainStep._backward


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _signaled() -> Callable[[], None]:
    whole = TrainStep._backward

    def signaled(self: TrainStep) -> float:
        if self.step == 4:
            signal.raise_signal(signal.SIGUSR1)
        return whole(self)

    TrainStep._backward = signaled  # type: ignore[method-assign]
    return lambda: setattr(TrainStep, "_backward", whole)


FAILURES = {
    "nan": _losses_nan,
    "disk": _disk_full,
    "signal": _signaled,
    "interrupt": lambda: lambda: None,
    "killed_at_write": _killed_at_write,
    "killed_at_update": _killed_at_update,
}


def save_state(session: Session, file: Path, overrides: list[str], folder: Path) -> str:
    """Save the state after two updates; return where."""
    step = _train_step(session, file, overrides)
    for _ in range(2):
        step()
    return _save(step, folder)


def load_and_save(session: Session, file: Path, overrides: list[str], places: dict[Path, Path]) -> None:
    """Load checkpoints of any layout in this one, each to be saved again elsewhere."""
    step = _train_step(session, file, overrides)
    for source, folder in places.items():
        assert load_checkpoint(source, step.model, step.optimizer) == {"step": 2, "of": "test"}
        step.step = 2
        _save(step, folder)


def _train_step(session: Session, file: Path, overrides: list[str]) -> TrainStep:
    experiment = load(file, overrides)
    assert experiment.parallel is not None
    return TrainStep(experiment, Ranks(experiment.parallel.layout(session.place.count), session))


def _save(step: TrainStep, folder: Path) -> str:
    saver = Saver(folder, step.train, step, step.ranks, lambda: {"of": "test"})
    saver.save()
    saver.finish()
    return str(folder / f"step_{step.step:08d}")


def two_updates(session: Session, name: str, overrides: list[str]) -> dict[str, float]:
    """Return loss and gradient norm of two updates of a shipped experiment without dropout."""
    experiment = load(name, overrides)
    assert experiment.parallel is not None
    layout = experiment.parallel.layout(session.place.count)
    return run_updates(TrainStep(experiment, Ranks(layout, session)))


def run_updates(step: TrainStep) -> dict[str, float]:
    for part in step.model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(getattr(part, "dropout", None), float):
            part.dropout = 0.0
    torch.manual_seed(0)
    records = [step() for _ in range(2)]
    return {f"{key} {index}": record[key] for index, record in enumerate(records) for key in ("loss", "grad_norm")}


def split_loss(
    session: Session, x: Tensor, weight: Tensor, targets: Tensor, factor: float, soft_cap: float
) -> tuple[float, Tensor, Tensor]:
    """Return the loss over a vocabulary of which each rank has a part, and this rank's parts of the gradients."""
    axis = Ranks(Layout(tensor=session.place.count), session).tensor_axis
    parts = weight.chunk(axis.size)
    first = sum(map(len, parts[: axis.index]))
    x, part = x.requires_grad_(), parts[axis.index].clone().requires_grad_()
    loss = split_cross_entropy(x, part, targets, first, axis.group, soft_cap)
    (loss * factor / axis.size).backward()
    assert x.grad is not None
    assert part.grad is not None
    return loss.item(), x.grad, part.grad


def buffers_after(session: Session, file: Path, overrides: list[str]) -> dict[str, Tensor]:
    """Return a model's buffers after three updates."""
    step = _train_step(session, file, overrides)
    for _ in range(3):
        step()
    return {name: buffer.clone() for name, buffer in step.model.named_buffers()}
