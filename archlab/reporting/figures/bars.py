"""Horizontal bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from archlab.reporting.figures.chart import Figure, Json, number, text


def bars(
    name: str, description: str, values: Mapping[str, float], kinds: Sequence[str], *, label: str, shown: str = "{:.3f}"
) -> Figure:
    """Return a figure with a bar for each value, the first on top; `kinds` are their CSS classes."""
    rows: list[Json] = [
        {"label": text(each), "value": number(value), "text": shown.format(value), "c": kind}
        for (each, value), kind in zip(values.items(), kinds, strict=True)
    ]
    return Figure(name, description, {"kind": "bars", "rows": rows, "label": text(label)})
