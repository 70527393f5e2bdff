"""The results of a ladder's runs, read from their directories, wherever they were trained."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from archlab.config.diff import first_difference
from archlab.config.experiment import load
from archlab.config.strict_json import read_object
from archlab.errors import ArchlabError, one_line
from archlab.planning.losses import LossPoint
from archlab.searching.ladder.runs import EXPERIMENT, LadderRun
from archlab.storage.files import write_text
from archlab.storage.json_values import is_finite, require_fields
from archlab.storage.run_identity import require_unedited
from archlab.training import metrics

LOCK, FAILURE = "lock", "result.json"
# Settings that may differ in a run of another machine: device, speed, and extra outputs.
_OF_MACHINES = (
    *("name", "description", "plugins", "parallel", "train.device", "train.precision", "train.compile"),
    *("train.checkpoint_activations", "train.checkpoint_every", "train.keep_checkpoints", "train.log_every"),
    *("train.tensorboard", "train.eval_every", "train.start_from"),
)


@dataclass(frozen=True)
class RunResult:
    """The loss that a run reached, or the reason why there is none; sizes count no embeddings, FLOPs are counted."""

    rung: int
    candidate: str
    seed: int
    part: float
    params: int
    tokens: int
    flops: float
    loss: float | None
    reason: str = ""

    def to_point(self) -> LossPoint:
        """Return the result as a point of a law."""
        assert self.loss is not None
        return LossPoint(self.candidate, float(self.params), float(self.tokens), self.loss, str(self.seed))


def read_loss(run: LadderRun, metric: str) -> float | None:
    """Return the loss at a run's last step, or None while the run has not ended.

    A run that was trained elsewhere may come back without its model: its experiment and its metrics are enough.
    Raises ArchlabError if the directory holds the run of another experiment.
    """
    if not (run.folder / EXPERIMENT).is_file():
        return None
    is_foreign = not (run.folder / LOCK).exists()
    if not is_foreign and not (run.folder / "final").is_dir():
        return None
    _require_same(run)
    last = [r[metric] for r in metrics.read(run.folder) if r["step"] == run.experiment.train.steps and metric in r]
    return float(last[-1]) if last and is_finite(last[-1]) else None


def _require_same(run: LadderRun) -> None:
    file = run.folder / EXPERIMENT
    require_unedited(run.folder)
    found = load(file, recorded=True)
    sequences, own = _sequences(found.train), _sequences(run.experiment.train)
    if sequences != own:
        raise ArchlabError(f"{file}: has {sequences} sequences an update, not the {own} of {run.label}")
    if difference := first_difference(found.resolved, run.experiment.resolved, _may_differ):
        raise ArchlabError(f"{file}: is not the experiment of {run.label}: {difference}")


def _sequences(train: Any) -> int:
    return int(train.batch_size * train.accumulate)


def _may_differ(path: str, one: Any, other: Any) -> bool:
    return one == other or path in (*_OF_MACHINES, "train.batch_size", "train.accumulate")


def write_failure(run: LadderRun, reason: str) -> None:
    """Record why a run failed: it would fail again, so that a resumed ladder does not try."""
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.folder / FAILURE, json.dumps({"reason": reason}))


def read_failure(run: LadderRun) -> str:
    """Return why a run failed, or nothing."""
    file = run.folder / FAILURE
    if not file.is_file():
        return ""
    reason = read_object(file, "the result of a run").get("reason")
    if not isinstance(reason, str) or not reason:
        raise ArchlabError(f"{file}: has no reason why the run failed")
    return reason


def mean_losses(results: Iterable[RunResult]) -> dict[str, float]:
    """Return each candidate's mean loss over seeds, of whole runs, from the best to the worst."""
    losses: dict[str, list[float]] = {}
    for result in results:
        if result.loss is not None and result.part == 1.0:
            losses.setdefault(result.candidate, []).append(result.loss)
    means = {name: fmean(values) for name, values in losses.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))


def failures(results: Iterable[RunResult]) -> dict[str, str]:
    """Return the reason of each candidate that failed, of its first run that did."""
    found: dict[str, str] = {}
    for result in results:
        if result.reason:
            found.setdefault(result.candidate, f"rung {result.rung}: {result.reason}")
    return found


def points(results: Sequence[RunResult], candidates: Iterable[str]) -> list[LossPoint]:
    """Return the points of some candidates."""
    wanted = set(candidates)
    return [result.to_point() for result in results if result.loss is not None and result.candidate in wanted]


def to_plain(result: RunResult) -> dict[str, Any]:
    """Return a result as JSON data."""
    return asdict(result)


def from_plain(data: Mapping[str, Any], file: Path) -> RunResult:
    """Read a result from JSON data; raise ArchlabError for data that are none."""
    try:
        result = RunResult(**data)
    except TypeError as error:
        raise ArchlabError(f"{file}: holds no result of a run: {one_line(error)}") from error
    require_fields(result, file)
    if result.loss is not None and not math.isfinite(result.loss):
        raise ArchlabError(f"{file}: the loss of {result.candidate} is {result.loss}")
    return result
