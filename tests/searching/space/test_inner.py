"""Knobs tuned for each candidate by itself: the settings of its runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from search_helpers import write_space

from archlab import ConfigError
from archlab.searching.space.inner import inner_values
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space

LR = {"low": 1e-3, "high": 1e-1, "log": True}
EMA = "model.layers[*].mixer.ema"


def space_of(folder: Path, inner: dict[str, Any], **space: Any) -> Space:
    return load_space(write_space(folder, vary={EMA: ["cema", "none"]}, inner=inner, **space))


def test_a_range_is_divided_evenly(tmp_path: Path) -> None:
    space = space_of(tmp_path, {"train.lr": LR, "trials": 4})
    values = sorted(row["train.lr"] for row in inner_values(space.inner, space.base, 0))
    assert values == pytest.approx([10**-2.75, 10**-2.25, 10**-1.75, 10**-1.25], rel=1e-5)


def test_the_settings_are_the_same_for_every_candidate_that_has_them(tmp_path: Path) -> None:
    inner = {"train.lr": LR, "train.beta2": {"low": 0.9, "high": 0.99}, f"{EMA}.num_dims": [2, 4, 8], "trials": 5}
    space = space_of(tmp_path, inner)
    assert space.inner is not None
    whole = inner_values(space.inner, space.base, 3)
    without = inner_values(space.inner, space.base.override({EMA: "none"}, "test"), 3)
    assert [{k: v for k, v in row.items() if "num_dims" not in k} for row in whole] == without
    assert len({row["train.beta2"] for row in whole}) == 5
    assert {row[f"{EMA}.num_dims"] for row in whole} == {2, 4, 8}
    assert whole != inner_values(space.inner, space.base, 4)


def test_few_choices_are_all_tried_once(tmp_path: Path) -> None:
    space = space_of(tmp_path, {"train.clip": [1.0, None], "train.warmup": [0, 1], "trials": 9})
    rows = inner_values(space.inner, space.base, 0)
    assert [tuple(row.values()) for row in rows] == [(1.0, 0), (1.0, 1), (None, 0), (None, 1)]


def test_whole_numbers_and_steps_stay_inside(tmp_path: Path) -> None:
    ranges = {"train.warmup": {"low": 0, "high": 3}, "train.weight_decay": {"low": 0.0, "high": 0.25, "step": 0.1}}
    space = space_of(tmp_path, {**ranges, "trials": 8})
    rows = inner_values(space.inner, space.base, 0)
    assert {row["train.warmup"] for row in rows} <= {0, 1, 2, 3}
    assert {round(row["train.weight_decay"], 6) for row in rows} <= {0.0, 0.1, 0.2}


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ({"train.lr": LR}, "inner.trials: None is not"),
        ({"trials": 3}, "inner: names nothing to tune"),
        ({"train.lrr": LR, "trials": 3}, "inner.train.lrr: there is no such knob"),
        ({EMA: ["cema"], "trials": 3}, r"inner.*ema: is varied too"),
        ({"train.seed": [0, 1], "trials": 2}, "inner.train.seed: is luck.* study.runs_per_trial"),
        ({"train.lr": {"low": 0, "high": 1}, "trials": 2}, "inner.train.lr: .*not above 0"),
        ([1], "inner: .* is not a mapping"),
        ({"model.layers[each].norm": ["rms"], "trials": 2}, r"inner.model.layers\[each\].norm: is of single layers"),
        ({"train.warmup": {"same_as": "train.steps"}, "trials": 2}, "inner.train.warmup: same_as: a tie follows"),
        ({"model.layers[*].ffn": [{"type": "mlp", "hidden_dim": "x"}], "trials": 2}, r"inner.*ffn.hidden_dim: 'x' is"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, inner: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(tmp_path, inner)
