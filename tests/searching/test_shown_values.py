"""Values of the varied knobs as they are shown: of the base experiment, and beside the baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from search_helpers import LAYER, write_space

from archlab.searching.results.against_baseline import is_worse_than_baseline, objective_values
from archlab.searching.results.shown_values import base_value, mark_gaps
from archlab.searching.results.summary import BaselineSummary, SearchSummary, TrialSummary
from archlab.searching.space.load_space import load_space

MIXER = "model.layers[*].mixer"
PATTERN = {"pattern": {"of": {"a": {"mixer": "attention"}, "g": {"mixer": "gla"}}, "period": 2}}
TWO = {"model.layers": [LAYER, {"mixer": "attention", "ffn": {"type": "swiglu", "hidden_dim": 24}, "repeat": 2}]}


@pytest.mark.parametrize(
    ("vary", "path", "value"),
    [
        ({"train.lr": [0.1, 0.2]}, "train.lr", 0.01),
        ({"train.clip": [0.5, None]}, "train.clip", 1.0),  # a default
        ({f"{MIXER}.ema": ["cema", "none"]}, f"{MIXER}.ema", "cema"),
        ({MIXER: ["gla", "mamba2"], f"{MIXER}.state_dim": [4, 8]}, f"{MIXER}.state_dim", None),
        ({"model.layers[each].ffn.hidden_dim": [16, 24]}, "model.layers[each].ffn.hidden_dim", [16, 24, 24]),
        ({"model.layers[each].mixer.ema": ["cema", "ema"]}, "model.layers[each].mixer.ema", ["cema", None, None]),
        ({"model.layers": PATTERN}, "model.layers", None),
    ],
)
def test_the_base_has_a_value_for_every_knob_that_is_there(
    tmp_path: Path, vary: dict[str, Any], path: str, value: Any
) -> None:
    assert base_value(load_space(write_space(tmp_path, vary=vary, override=TWO)), path) == value


def test_the_base_has_the_number_that_is_solved_for(tmp_path: Path) -> None:
    space = load_space(write_space(tmp_path, hold={"params": 2.5e4, "by": "model.dim", "tolerance": 0.1}))
    value = base_value(space, "model.dim")
    assert space.hold is not None
    assert space.hold.cost(space.base.override({"model.dim": value}, "test")) == pytest.approx(2.5e4, rel=0.1)


def test_a_layer_without_the_knob_is_a_dash() -> None:
    assert mark_gaps("model.layers[each].mixer.ema", ["cema", None]) == ["cema", "-"]
    assert mark_gaps("model.layers", [{"mixer": "gla"}, None]) == [{"mixer": "gla"}, None]
    assert mark_gaps("train.clip", None) is None


def summary(best: TrialSummary | None, baseline: BaselineSummary, **objectives: str) -> SearchSummary:
    return SearchSummary("s", objectives, {}, best, baseline, [], {}, 0, 1, {}, {}, {})


@pytest.mark.parametrize(
    ("best", "baseline", "objectives", "expected"),
    [
        ({"params": 7.0}, {"params": 5.0}, {"params": "minimize"}, (7.0, 5.0)),
        ({"params": 7.0}, {"params": 5.0}, {"params": "maximize"}, (7.0, 5.0)),
        (
            {"val_loss": 2.0, "params": 9.0},
            {"val_loss": 3.0},
            {"val_loss": "minimize", "params": "minimize"},
            (2.0, 3.0),
        ),
        ({"params": 7.0}, {}, {"params": "minimize"}, None),
        (None, {"params": 5.0}, {"params": "minimize"}, None),
    ],
)
def test_the_best_trial_is_compared_by_the_first_objective(
    best: Any, baseline: Any, objectives: dict[str, str], expected: tuple[float, float] | None
) -> None:
    trial = None if best is None else TrialSummary(3, {}, best)
    found = summary(trial, BaselineSummary(baseline), **objectives)
    assert objective_values(found) == expected
    is_worse = expected is not None and (expected[0] > expected[1]) == (objectives != {"params": "maximize"})
    assert is_worse_than_baseline(found) == is_worse


def test_the_whole_validation_split_comes_first() -> None:
    best = TrialSummary(3, {}, {"val_loss": 2.0}, {"loss": 2.5})
    baseline = {"val_loss": 2.2}
    assert objective_values(summary(best, BaselineSummary(baseline, "", {"loss": 2.4}), val_loss="minimize")) == (
        2.5,
        2.4,
    )
    assert objective_values(summary(best, BaselineSummary(baseline), val_loss="minimize")) == (2.0, 2.2)
