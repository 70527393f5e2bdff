"""An experiment that is tried first, as values of the space: those that it has, or why it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from search_helpers import LAYER, write_space

from archlab import ConfigError
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space

EMA, EACH, HIDDEN = "model.layers[*].mixer.ema", "model.layers[each].mixer.ema", "model.layers[*].ffn.hidden_dim"
HEADS = "model.layers[*].mixer.num_heads"
ATTENTION = {"mixer": "attention", "ffn": {"type": "swiglu", "hidden_dim": 16}, "norm": "rms"}
PATTERN = {"pattern": {"of": {"a": {"mixer": "attention"}, "g": {"mixer": "gla"}}, "period": 2}}


def space_of(folder: Path, seed: dict[str, Any], **keys: Any) -> Space:
    """Return a space whose seed is the base experiment with other values."""
    (folder / "known.yaml").write_text(yaml.safe_dump({"base": "tiny.yaml", "override": seed}))
    return load_space(write_space(folder, **keys, seeds=["known.yaml"]))


@pytest.mark.parametrize(
    ("keys", "seed", "expected"),
    [
        ({"vary": {HIDDEN: {"low": 8, "high": 32, "step": 8}}}, {HIDDEN: 24}, {HIDDEN: 24}),
        ({"vary": {EMA: ["ema", "none"], "train.clip": [1.0, None]}}, {EMA: "ema"}, {EMA: "ema", "train.clip": 1.0}),
        # What a trial does not choose: a tie, and the number that is solved for, also of layers.
        (
            {"vary": {HIDDEN: {"same_as": "model.dim"}, "model.dim": [16, 24]}},
            {"model.dim": 24, HIDDEN: 24},
            {"model.dim": 24},
        ),
        (
            {"vary": {EMA: ["ema", "cema"]}, "hold": {"params": 3e4, "by": "model.dim"}},
            {"model.dim": 20},
            {EMA: "cema"},
        ),
        (
            {"vary": {EMA: ["ema", "none"]}, "hold": {"params": 3e4, "by": "model.layers"}},
            {"model.layers": [{**LAYER, "repeat": 3}], EMA: "none"},
            {EMA: "none"},
        ),
        # A value for each layer, none where a layer lacks the knob.
        (
            {"vary": {EACH: ["cema", "none"]}, "override": {"model.layers": [{**LAYER, "repeat": 2}]}},
            {"model.layers": [LAYER, {**LAYER, "mixer": {**LAYER["mixer"], "ema": "none"}}]},  # type: ignore[dict-item]
            {EACH: ["cema", "none"]},
        ),
        (
            {"vary": {"model.layers": [[ATTENTION], [LAYER]], EACH: ["cema", "none"]}},
            {"model.layers": [ATTENTION]},
            {"model.layers": [ATTENTION]},
        ),
    ],
)
def test_an_experiment_of_the_space_has_values(
    tmp_path: Path, keys: dict[str, Any], seed: dict[str, Any], expected: dict[str, Any]
) -> None:
    (values,) = space_of(tmp_path, seed, **keys).seed_values().values()
    assert values == expected


@pytest.mark.parametrize(
    ("keys", "seed", "problem"),
    [
        ({"vary": {HIDDEN: {"low": 8, "high": 32}}}, {HIDDEN: 64}, r"\S+hidden_dim: 64 is not in the space"),
        ({"vary": {HIDDEN: {"low": 8, "high": 32, "step": 8}}}, {HIDDEN: 12}, r"\S+hidden_dim: 12 is not in the space"),
        ({"vary": {EMA: ["ema", "none"]}}, {EMA: "s4d"}, r"\S+mixer\.ema: .*s4d.* is not in the space"),
        (
            {"vary": {"train.clip": [1.0, 2.0]}},
            {HIDDEN: 64},
            r"model\.layers\[0\]\.ffn\.hidden_dim is 64 there and 16 here",
        ),
        (
            {"vary": {EACH: ["cema", "none"]}, "override": {"model.layers": [{**LAYER, "repeat": 2}]}},
            {EMA: "s4d"},
            r"model\.layers\[each\]\.mixer\.ema: .*s4d.* is not in the space",
        ),
        (
            {"vary": {"model.layers": PATTERN}},
            {},
            "model.layers: a pattern, which is not read from an experiment's layers,",
        ),
        (
            {"vary": {HEADS: {"low": 2, "high": 4, "divides": "model.dim"}, "model.dim": [16, 25]}},
            {"model.dim": 25, HEADS: 5, "model.layers[*].mixer.value_dim": 25},
            r"\S+num_heads: 5 is not in the space",
        ),
        (
            {"vary": {"model.layers[1].norm": ["rms", "layer"]}, "override": {"model.layers": [LAYER, ATTENTION]}},
            {"model.layers": [LAYER]},
            r"model\.layers\[1\]\.norm: nothing is not in the space",
        ),
    ],
)
def test_another_experiment_is_refused_by_its_first_difference(
    tmp_path: Path, keys: dict[str, Any], seed: dict[str, Any], problem: str
) -> None:
    with pytest.raises(
        ConfigError, match=rf"space.yaml: seeds\[0\]: known.yaml is not a trial of this space: {problem}"
    ):
        space_of(tmp_path, seed, **keys)
