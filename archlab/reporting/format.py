"""Metrics and values as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_BOOKKEEPING = ("step", "tokens", "tokens_per_s")
_UNITS = {
    "val_loss": "validation loss, nats per token",
    "loss": "training loss, nats per token",
    "val_bpb": "validation, bits per byte",
    "params": "parameters",
    "params_non_embedding": "parameters without embeddings",
    "params_active": "parameters that a token uses",
    "flops_per_token": "training FLOPs per token",
    "flops_per_token_forward": "forward FLOPs per token",
    "state_bytes": "state of one stream, bytes",
    "max_state_bytes": "largest state of one stream, bytes",
    "memory_per_device": "memory of a training step, bytes",
    "tokens_per_s": "training speed, tokens per second",
    "decode_us_per_token": "decode latency, µs per token",
    "weight_bytes": "weights, bytes",
    "activation_bytes": "activations, bytes",
    "optimizer_bytes": "optimizer state, bytes",
    "tokens_per_step": "tokens per optimizer step",
    "grad_norm": "gradient norm",
    "mfu": "share of the peak FLOP/s",
    "memory_bytes": "most memory so far, bytes",
    "data_wait_s": "waiting for data, s per update",
    "lr": "learning rate",
}


def axis_title(metric: str) -> str:
    """Return the name of a metric with its unit."""
    return _UNITS.get(metric, metric)


def brief(value: Any) -> str:
    """Return a value as text for a table or an axis."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        rest = ", ".join(f"{key} {brief(entry)}" for key, entry in value.items() if key != "type")
        return f"{value['type']} ({rest})" if "type" in value and rest else str(value.get("type", rest))
    if isinstance(value, list):
        return ", ".join(brief(entry) for entry in value)
    return "null" if value is None else str(value)


def format_amount(value: float) -> str:
    """Return a large number as people say it, in thousands, millions, billions or trillions: 60 K, 1.25 M, 7 B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(value) >= 0.9995 * size and abs(value) < 9995 * size:
            return f"{float(f'{value / size:.3g}'):g} {unit}"
    return f"{value:.3g}"


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
