"""What a training run did, seen by a callback and in its directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from archlab.config.experiment import Experiment
from archlab.training import metrics
from archlab.training.callbacks import Callback
from archlab.training.metrics_file import OF_THE_MACHINE
from archlab.training.trainer import train

TEXTS = ["one", "a longer text", "x", "and the last of these texts, which is cut where a context ends"] * 8
CLOCK = ("tokens_per_s", *OF_THE_MACHINE)


def write_documents(folder: Path) -> str:
    """Write short documents to a directory; return the override that makes them the task."""
    folder.mkdir()
    for split in ("train", "validation", "test"):
        lines = (json.dumps({"text": text}) for text in TEXTS)
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return f"task={{type: text, path: {folder}}}"


class Recorder(Callback):
    """Keeps what it sees, and calls `at` with each record of an update."""

    def __init__(self, at: Callable[[dict[str, Any]], None] = lambda record: None) -> None:
        self.starts: list[int] = []
        self.steps: list[dict[str, Any]] = []
        self.evals: list[dict[str, Any]] = []
        self.at = at

    def on_start(self, experiment: Experiment, step: int) -> None:
        self.starts.append(step)

    def on_step(self, record: dict[str, Any]) -> None:
        self.steps.append(record)
        self.at(record)

    def on_eval(self, record: dict[str, Any]) -> None:
        self.evals.append(record)


def interrupt_at(step: int) -> Callable[[dict[str, Any]], None]:
    def at(record: dict[str, Any]) -> None:
        if record["step"] == step:
            raise KeyboardInterrupt

    return at


def curve(folder: Path) -> list[dict[str, Any]]:
    """Return a run's records without what depends on the clock."""
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in metrics.read(folder)]


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "final/model.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(experiment: Experiment, folder: Path) -> list[float]:
    train(experiment, folder)
    return [record["loss"] for record in curve(folder) if "loss" in record]
