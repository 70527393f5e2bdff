from __future__ import annotations

from pathlib import Path

import pytest
from search_helpers import search, write_space

from archlab.config.experiment import load
from archlab.modeling.cost import estimate_cost
from archlab.searching.results.meter import Meter
from archlab.searching.space.study_config import parse_study


@pytest.mark.slow
def test_each_trial_has_the_steps_of_its_budget(tmp_path: Path) -> None:
    narrow = estimate_cost(load(write_space(tmp_path).parent / "tiny.yaml")).flops_per_token * 32
    file = write_space(
        tmp_path,
        vary={"model.layers[0].ffn.hidden_dim": [64]},
        override={"train.budget": {"flops": 3.5 * narrow}},
        study={"sampler": "random", "trials": 1},
    )
    assert search(file, tmp_path / "s").summary.tokens_per_trial == 3 * 32, "of the baseline"
    steps = [load(tmp_path / "s" / run / "experiment.yaml").train.steps for run in ("baseline", "best")]
    assert steps[0] == 3
    assert 1 <= steps[1] < 3, "a wider model has fewer"


def test_what_a_trial_uses_is_counted_from_where_it_paused_and_stored_at_each_evaluation(tmp_path: Path) -> None:
    write_space(tmp_path)
    stored = list[dict[str, float]]()
    meter = Meter(stored.append, {"seconds": 100.0, "tokens": 1000, "flops": 5e6})
    for start in (0, 2):  # two runs, of which the second resumes
        run = meter.watch(10.0)
        run.on_start(load(tmp_path / "tiny.yaml"), start)
        run.on_step({"step": 3})
        run.on_eval({"step": 4})
    assert [spent["tokens"] for spent in stored] == [1000 + 4 * 32, 1000 + 6 * 32]
    assert [spent["flops"] for spent in stored] == [5e6 + 40 * 32, 5e6 + 60 * 32]
    assert all(100 <= spent["seconds"] < 200 for spent in stored)


def test_a_pruner_waits_for_the_steps_of_a_budget_of_seconds() -> None:
    assert parse_study({}, "study").make_pruner(True, 0, 1)._max_resource == "auto"  # type: ignore[attr-defined]
