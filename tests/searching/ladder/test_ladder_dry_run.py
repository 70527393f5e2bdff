"""What a ladder is said to take before it starts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ladder_helpers import CANDIDATES, write_ladder

from archlab import api
from archlab.config.experiment import Experiment
from archlab.errors import ArchlabError, ConfigError
from archlab.planning.plan import plan
from archlab.searching.ladder import dry_run as dry_run_module
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


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Plan every experiment alike, on at most two devices; return the names that are planned, with the devices."""
    found: list[tuple[str, int]] = []

    def plan_alike(experiment: Experiment, device: str, devices: int) -> SimpleNamespace:
        found.append((experiment.name, devices))
        if devices > 2:
            raise ConfigError("devices", f"2 sequences are not divided among {devices}")
        if "fraction: 0.3" in experiment.to_yaml():
            raise ConfigError("model.layers[0].mixer.position", "rope: the part that is rotated is not even")
        flops = {"flops_per_token": 3.0, "flops_per_token_forward": 1.0}
        sizes = {"params": 10, "params_non_embedding": 8, "checkpoint_bytes": 120, "memory_per_device": 7.0}
        return SimpleNamespace(seconds_per_update=1.0, tokens_per_s=10.0, fits=True, **flops, **sizes)

    monkeypatch.setattr(dry_run_module, "plan", plan_alike)
    return found


def test_of_many_candidates_some_are_planned_on_as_many_devices_as_can_be_used(
    tmp_path: Path, planned: list[tuple[str, int]]
) -> None:
    names = {name: {"train.clip": 1.0 + index} for index, name in enumerate("abcdef")}
    found = dry_run_ladder(load_space(write_ladder(tmp_path, rungs=RUNGS[:1], candidates=names)), devices=8)
    assert found.planned == ["a", "c", "f"]
    assert [devices for name, devices in planned if name == "a_rung_1"] == [8, 4, 2]
    (rung,) = found.rungs
    assert (rung.candidates, rung.runs, rung.devices) == (6, 12, 2)
    assert rung.device_hours == pytest.approx(2 * rung.hours)


def test_drawn_candidates_that_cannot_be_built_are_left_out_of_the_sample(
    tmp_path: Path, planned: list[tuple[str, int]]
) -> None:
    mixers: list[Any] = [{"type": "attention", "num_heads": 4, "position": {"type": "rope", "fraction": 0.3}}, "gla"]
    keys: dict[str, Any] = {"candidates": None, "study": {"sampler": "random", "trials": 9}, "rungs": RUNGS[:1]}
    found = dry_run_ladder(load_space(write_ladder(tmp_path, vary={"model.layers[*].mixer": mixers}, **keys)))
    assert (found.rungs[0].candidates, len({name for name, _ in planned})) == (2, 2)
    none = write_ladder(tmp_path, vary={"model.layers[*].mixer": mixers[:1]}, **keys)
    with pytest.raises(ConfigError, match=r"space.yaml: rungs\[0\]: none of c000 can be built at its size"):
        dry_run_ladder(load_space(none))


@pytest.mark.slow
def test_a_ladder_of_which_no_candidate_meets_the_constraints_is_refused(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"candidates": None, "vary": {"train.clip": [1.0]}, "constraints": ["params <= 1"]}
    with pytest.raises(
        ConfigError, match=r"space.yaml: constraints: no candidate meets them: params <= 1 is violated: "
    ):
        dry_run_ladder(load_space(write_ladder(tmp_path, **keys, study={"sampler": "random", "trials": 1})))


def test_a_device_that_is_not_known_is_no_mistake_of_a_candidate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no device 'h10'; did you mean 'h100'\?$"):
        dry_run_ladder(load_space(write_ladder(tmp_path)), device="h10")


def test_a_search_and_a_ladder_are_estimated_in_different_ways() -> None:
    with pytest.raises(ArchlabError, match="has rungs"):
        dry_run(load_space("small_ladder"))
