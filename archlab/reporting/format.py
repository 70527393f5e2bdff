"""Metrics as one line of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BOOKKEEPING = ("step", "tokens", "tokens_per_s")


def format_metrics(found: Mapping[str, float], prefix: str = "") -> str:
    """Return what was measured as a person reads it: the loss, then what the task measures beside it."""
    units = {"loss": "loss {:.4f} nats", "bpb": "{:.3f} bits per byte"}
    names = [name for name in found if name.startswith(prefix) and name not in _BOOKKEEPING]
    short = {name.removeprefix(prefix): found[name] for name in names}
    return ", ".join(units.get(name, f"{name} {{:.3f}}").format(value) for name, value in short.items())


def format_validation(found: Mapping[str, float]) -> str:
    """Return the validation metrics for a line that has no room."""
    if "val_loss" not in found:
        return ""
    beside = {name.removeprefix("val_"): value for name, value in found.items() if name.startswith("val_")}
    units = {"bpb": "{:.3f} bits/byte"}
    rest = [units.get(name, f"{name} {{:.3f}}").format(value) for name, value in beside.items() if name != "loss"]
    return f"val {beside['loss']:.4f}" + (f" ({', '.join(rest)})" if rest else "")


def describe_corpus(corpus: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a table says of the data that a model was trained on: its source, sizes and checksum."""
    sizes = ", ".join(f"{split} {size:,}" for split, size in corpus.get("bytes", {}).items())
    return {"corpus": corpus.get("source"), "bytes used": sizes, "SHA-256 of the corpus": corpus.get("sha256")}
