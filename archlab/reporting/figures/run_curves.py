"""The logged metrics of one training run, by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from archlab.reporting.figures.chart import Figure, Part, axis, chart, key, line, panel, robust_top
from archlab.reporting.figures.curves import thin
from archlab.reporting.format import axis_title

_MOST = 1500  # points of a curve
_BESIDE = ("lr", "grad_norm", "tokens_per_s", "mfu", "memory_bytes", "data_wait_s")
_KNOWN = {"step", "tokens", "loss", "val_loss", "tokens_per_s_per_device", *_BESIDE}


def loss_curves(records: Sequence[Mapping[str, Any]]) -> tuple[Figure, str] | None:
    """Return both losses by step and a note about values not shown, or None if nothing was logged."""
    training, validation = points_of(records, "loss"), points_of(records, "val_loss")
    values = [value for _, value in (*training, *validation)]
    if not values:
        return None
    marks = [line("complete train", thin(training, _MOST), name="training")] if training else []
    marks += [line("best", thin(validation, _MOST), label="validation")] if validation else []
    steps = [step for step, _ in (*training, *validation)]
    top = robust_top(values, 1.0, 2.0) if len(values) > 20 else max(values)
    y = axis("loss, nats per token", [min(values), top])
    legend = [key("complete", "training, one batch", "line"), key("best", "validation", "line")]
    spec = chart([panel(axis("step", [0, *steps], integer=True), y, marks)], legend, height=400)
    hidden = sum(value > top for value in values)
    note = f"{hidden} losses above {top:.4g} are cut off." if hidden else ""
    return Figure("curves", "training and validation loss by step", spec), note


def other_curves(records: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Return small panels of everything else that was logged, or None where there is nothing."""
    names = list(dict.fromkeys(name for record in records for name in record))
    others = [name for name in names if name not in _KNOWN]
    panels = [made for name in (*others, *_BESIDE) if (made := _panel(records, name)) is not None]
    if not panels:
        return None
    spec = chart(panels, min_width=300, columns=3, height=170)
    return Figure("other-curves", "other metrics by step", spec)


def _panel(records: Sequence[Mapping[str, Any]], name: str) -> Part | None:
    points = points_of(records, name)
    if len(points) < 2:
        return None
    steps, values = zip(*points, strict=True)
    is_log = name == "grad_norm" and min(values) > 0 and max(values) / min(values) > 30
    kind = "best" if name.startswith("val_") else "c8"
    made = line(kind, thin(points, _MOST), name=name)
    return panel(axis("step", [0, *steps], integer=True), axis(axis_title(name), values, log=is_log), [made])


def points_of(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Return the finite values of a metric by step."""
    found = [(int(record["step"]), record.get(name)) for record in records]
    return [(step, value) for step, value in found if isinstance(value, int | float) and math.isfinite(value)]
