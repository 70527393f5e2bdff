"""Models as strips of layers, from input to output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archlab.reporting.figures.chart import Figure, Json, text
from archlab.reporting.model_layers import Kinds, layer_lists, letter


def layer_strips(models: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, Kinds] | None:
    """Return the strips of models by their names, and their kinds of layers; None for models without layers."""
    kinds, rows = Kinds(), []
    for name, model in models.items():
        lists = layer_lists(model)
        for one in lists:
            label = name if len(lists) == 1 else f"{name}: {one.slot}"
            blocks: list[Json] = [kinds.number(layer) for layer in one.layers]
            ends: list[Json] = [text(" + ".join(one.before)), text(" + ".join(one.after))]
            rows.append({"label": text(label), "blocks": blocks, "ends": ends})
    if not rows:
        return None
    spec: dict[str, Json] = {"kind": "layers", "rows": rows, "letters": [letter(n) for n in range(len(kinds.trees))]}
    return Figure("layers", f"the layers of {' and '.join(models)}, from input to output", spec), kinds
