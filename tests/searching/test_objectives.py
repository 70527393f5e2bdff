"""Objectives that are measured on a finished run."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_helpers import write_space

from archlab.config.experiment import load
from archlab.errors import ArchlabError
from archlab.modeling.build import build
from archlab.searching.results.objectives import decode_us_per_token, tokens_per_s
from archlab.storage import checkpoint


def trained(folder: Path, *overrides: str) -> Path:
    """Return the directory of a run that has ended, of a model with random weights."""
    write_space(folder)
    experiment = load(folder / "tiny.yaml", overrides)
    origin = {"versions": {}, "data": experiment.task.factory()().describe()}
    checkpoint.save_model(folder / "run/final", build(experiment.model), experiment.resolved, origin)
    return folder / "run"


@pytest.mark.slow
def test_only_a_model_that_decodes_has_a_latency(tmp_path: Path) -> None:
    assert decode_us_per_token(trained(tmp_path), tokens=2) > 0
    (tmp_path / "other").mkdir()
    both_ways = trained(tmp_path / "other", "model.layers[0].mixer={type: attention, attention: bidirectional}")
    with pytest.raises(ArchlabError, match="decode_us_per_token: this model does not decode tokens one at a time"):
        decode_us_per_token(both_ways)


@pytest.mark.parametrize(
    ("speeds", "median"), [(["", ', "tokens_per_s": 90', ', "tokens_per_s": 50'], 70.0), ([""], None), ([], None)]
)
def test_the_speed_is_the_median_of_the_steps_that_have_one(
    tmp_path: Path, speeds: list[str], median: float | None
) -> None:
    lines = [f'{{"step": {step}, "loss": 2.0{speed}}}\n' for step, speed in enumerate(speeds, 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    assert tokens_per_s(tmp_path) == median
