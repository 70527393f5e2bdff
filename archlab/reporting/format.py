"""Metrics as one line of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_BOOKKEEPING = ("step", "tokens", "tokens_per_s")


def format_metrics(metrics: Mapping[str, float], prefix: str = "") -> str:
    """Return metrics with their units, the loss first, then the metrics of the task."""
    units = {"loss": "loss {:.4f} nats", "bpb": "{:.3f} bits per byte"}
    names = [name for name in metrics if name.startswith(prefix) and name not in _BOOKKEEPING]
    short = {name.removeprefix(prefix): metrics[name] for name in names}
    # Null stands for a number that is not finite.
    shown = {name: math.nan if value is None else value for name, value in short.items()}
    return ", ".join(units.get(name, f"{name} {{:.3f}}").format(value) for name, value in shown.items())


def format_validation(metrics: Mapping[str, float]) -> str:
    """Return the validation metrics in short, for a progress line."""
    if "val_loss" not in metrics:
        return ""
    values = {name.removeprefix("val_"): value for name, value in metrics.items() if name.startswith("val_")}
    units = {"bpb": "{:.3f} bits/byte"}
    rest = [units.get(name, f"{name} {{:.3f}}").format(value) for name, value in values.items() if name != "loss"]
    return f"val {values['loss']:.4f}" + (f" ({', '.join(rest)})" if rest else "")


def describe_corpus(corpus: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of a table about the training data: its source, sizes and checksum."""
    sizes = ", ".join(f"{split} {size:,}" for split, size in corpus.get("bytes", {}).items())
    return {"corpus": corpus.get("source"), "bytes used": sizes, "corpus SHA-256": corpus.get("sha256")}
