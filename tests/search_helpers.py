"""A base experiment that trains within seconds, search spaces around it, and a fake training."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from alembic.script import ScriptDirectory
from optuna.storages._rdb.storage import _VersionManager
from optuna.trial import FrozenTrial

import archlab
import archlab.searching.results.best_trial
import archlab.searching.trials.train_trial
import archlab.searching.variants.cost_request
from archlab.config.experiment import Experiment
from archlab.modeling.build import build
from archlab.modeling.cost import Cost
from archlab.searching.run import SearchResult
from archlab.searching.space.load_space import load_space
from archlab.searching.study.study import open_study
from archlab.storage import checkpoint
from archlab.storage.locks import lock
from archlab.training.callbacks import Callback, CallbackList
from archlab.training.trainer import TrainResult

LAYER = {
    "norm": "rms",
    "mixer": {
        "type": "megalodon",
        "shared_dim": 8,
        "value_dim": 16,
        "ema": {"type": "cema", "num_dims": 4},
        "attention": {"type": "softmax", "window": "chunk", "window_size": 8},
    },
    "ffn": {"type": "swiglu", "hidden_dim": 16},
}
TRAIN = {
    "steps": 4,
    "batch_size": 2,
    "context": 16,
    "lr": 0.01,
    "warmup": 1,
    "eval_every": 2,
    "eval_tokens": 64,
    "device": "cpu",
    "precision": "float32",
    "compile": "off",
    "tensorboard": False,
}


_read_migrations = _VersionManager._create_alembic_script
_migrations: list[ScriptDirectory] = []


def _migrations_read_once(manager: _VersionManager) -> ScriptDirectory:
    _migrations[:] = _migrations or [_read_migrations(manager)]
    return _migrations[0]


# Optuna's own reads all scripts of its migrations for each database, which takes as long as a trial does here.
_VersionManager._create_alembic_script = _migrations_read_once


def replace_training(patch: pytest.MonkeyPatch, train: Callable[..., TrainResult]) -> None:
    """Let another function train the runs of trials."""
    patch.setattr(archlab.searching.trials.train_trial, "train", train)


def replace_costs(patch: pytest.MonkeyPatch, costs: Any = None) -> None:
    """Let every model have the same costs, by default 1 each, and no model be evaluated at the end."""
    costs = Cost(*[1] * len(fields(Cost))) if costs is None else costs
    patch.setattr(archlab.searching.variants.cost_request, "estimate_cost", lambda experiment: costs)
    patch.setattr(archlab.searching.results.best_trial, "_evaluate", lambda *_: {})


def write_space(folder: Path, **space: Any) -> Path:
    """Write a text, an experiment with one small layer, and a search space around it; return the space's file."""
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 100)
    base = {
        "model": {"type": "stack", "vocab_size": 256, "dim": 16, "layers": [LAYER]},
        "task": {"type": "text", "path": str(folder / "text.txt")},
        "train": TRAIN,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(base))
    asked = {"base": "tiny.yaml", "vary": {"train.lr": {"low": 0.001, "high": 0.1, "log": True}}, **space}
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump(asked, sort_keys=False))
    return file


def search(file: Path, folder: Path, overrides: Sequence[str] = (), **options: Any) -> SearchResult:
    """Search a space in a directory."""
    return archlab.search(file, overrides, out=folder, **options)


def pretend(
    loss: Callable[[Experiment], float] = lambda experiment: abs(math.log10(experiment.train.lr) + 2) + 1,
) -> Callable[..., TrainResult]:
    """Return a fake training that writes the files of a real one, with a given validation loss."""

    def train(experiment: Experiment, folder: Path, *, callbacks: Sequence[Callback] = (), **_: Any) -> TrainResult:
        callback, value = CallbackList(callbacks), loss(experiment)
        callback.on_start(experiment, 0)
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        for step in range(experiment.train.eval_every, experiment.train.steps + 1, experiment.train.eval_every):
            record = {"step": step, "val_loss": value * (1 + 1 / step), "val_bpb": value, "tokens_per_s": 100.0}
            _append(folder / "metrics.jsonl", record)
            callback.on_eval(record)
        model = build(experiment.model)
        origin = {"versions": {}, "data": experiment.task.factory()().describe()}
        checkpoint.save_model(folder / "final", model, experiment.resolved, origin)
        return TrainResult(folder, record)

    return train


def _append(file: Path, record: Mapping[str, Any]) -> None:
    with file.open("a") as opened:
        opened.write(json.dumps(record) + "\n")


def is_free(file: Path) -> bool:
    """Return whether no process holds a lock on a file."""
    with lock(file, wait=False) as acquired:
        return acquired


def trials_of(folder: Path) -> list[FrozenTrial]:
    """Return the trials of a search's directory."""
    return open_study(load_space(folder / "search.yaml", recorded=True), folder, create=False).get_trials()
