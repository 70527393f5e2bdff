"""What a ladder is said to take before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from ladder_helpers import CANDIDATES, write_ladder

from archlab import api
from archlab.errors import ArchlabError, ConfigError
from archlab.planning.plan import plan
from archlab.searching.ladder.candidates import at_rung
from archlab.searching.ladder.config import parse_ladder
from archlab.searching.ladder.dry_run import TARGET, dry_run_ladder
from archlab.searching.results.dry_run import dry_run
from archlab.searching.space.load_space import load_space

RUNGS = [
    {"set": {"model.dim": 16}, "tokens": 320, "seeds": 2, "keep": 1},
    {"set": {"model.dim": 24}, "tokens": 640, "elsewhere": True},
]


@pytest.mark.slow
def test_each_rung_is_what_its_runs_take(tmp_path: Path) -> None:
    file = write_ladder(tmp_path, rungs=RUNGS)
    found = dry_run_ladder(load_space(file))
    first, second = found.rungs
    assert (first.candidates, first.runs, second.candidates, second.runs) == (2, 4, 1, 1)
    assert (first.tokens, second.tokens) == (320, 640)
    ladder = parse_ladder(load_space(file))
    experiments = [at_rung(ladder, candidate, ladder.rungs[0]) for candidate in ladder.named]
    plans = [plan(each) for each in experiments]
    training = sum(2 * e.train.steps * p.seconds_per_update for e, p in zip(experiments, plans, strict=True))
    evaluating = sum(
        2 * p.flops_per_token_forward / p.flops_per_token * (e.train.eval_tokens or 0) / p.tokens_per_s
        for e, p in zip(experiments, plans, strict=True)
    )
    assert first.hours * 3600 == pytest.approx(training + evaluating)
    assert first.memory == max(each.memory_per_device for each in plans)
    assert found.hours == pytest.approx(first.hours + second.hours) == found.device_hours
    assert list(found.planned) == list(CANDIDATES)
    assert not any(tmp_path.glob("rungs"))  # nothing was written


@pytest.mark.slow
def test_branches_are_runs_and_take_their_decay_alone(tmp_path: Path) -> None:
    whole = dry_run_ladder(load_space(write_ladder(tmp_path, rungs=RUNGS)))
    branched = dry_run_ladder(load_space(write_ladder(tmp_path, rungs=RUNGS, branches=[0.5, 1.0])))
    assert branched.rungs[0].runs == 2 * whole.rungs[0].runs
    assert whole.rungs[0].hours < branched.rungs[0].hours < 1.5 * whole.rungs[0].hours


@pytest.mark.slow
def test_the_target_is_planned_and_counts_in_no_sum(tmp_path: Path) -> None:
    to = {"experiment": "tiny.yaml", "tokens": 6400}  # the base itself, which is beside the space
    found = dry_run_ladder(load_space(write_ladder(tmp_path, rungs=RUNGS, to=to)), device="h100", devices=2)
    target = found.rungs[-1]
    assert (target.name, target.runs) == (TARGET, 1)
    assert target.tokens == 6400
    assert found.device_hours == pytest.approx(sum(rung.device_hours for rung in found.rungs[:-1]))
    assert target.devices == 2
    assert {rung.devices for rung in found.rungs} <= {1, 2}


@pytest.mark.slow
def test_from_the_command_line(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_ladder(tmp_path, rungs=RUNGS)
    monkeypatch.setattr("archlab.cli.terminal.WIDTH_WHERE_NO_TERMINAL", 80)
    done = run("search", str(file), "--dry-run")
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= 80
    for part in ("device-h", "all rungs", "megalodon, averages;", "Nothing was started or written."):
        assert part in done.out


@pytest.mark.slow
def test_a_candidate_that_cannot_be_built_is_named(tmp_path: Path) -> None:
    rotated = {"type": "attention", "num_heads": 4, "position": {"type": "rope", "fraction": 0.3}}
    bad = {**CANDIDATES, "odd": {"model.layers[*].mixer": rotated}}
    with pytest.raises(ConfigError, match=r"candidates\.odd at rungs\[0\]: rope"):
        api.dry_run_ladder(write_ladder(tmp_path, rungs=RUNGS, candidates=bad))


def test_a_search_and_a_ladder_are_estimated_in_different_ways() -> None:
    with pytest.raises(ArchlabError, match="has rungs"):
        dry_run(load_space("small_ladder"))
