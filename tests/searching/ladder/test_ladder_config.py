"""The YAML of a ladder: what it plans, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from ladder_helpers import write_ladder
from search_helpers import write_space

import archlab
from archlab import api
from archlab.errors import ArchlabError, ConfigError
from archlab.searching.ladder.candidates import (
    all_candidates,
    at_rung,
    at_target,
    infeasible_reason,
    require_experiments,
)
from archlab.searching.ladder.config import Ladder, parse_ladder
from archlab.searching.ladder.runs import plan_runs
from archlab.searching.ladder.scaling import depth_of
from archlab.searching.ladder.sizes import size_of
from archlab.searching.space.load_space import load_space

HIDDEN = "model.layers[*].ffn.hidden_dim"


def read(folder: Path, **keys: Any) -> Ladder:
    return parse_ladder(load_space(write_ladder(folder, **keys)))


def _check(ladder: Ladder) -> None:
    require_experiments(ladder)
    all_candidates(ladder)


def rung(**keys: Any) -> list[dict[str, Any]]:
    return [{"params": 3000, "tokens": 320, **keys}]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rungs": [{"params": 1e3}]}, r"rungs\[0\]: needs tokens or tokens_per_param"),
        ({"rungs": [{"tokens": 1e3}]}, r"rungs\[0\]: has no size"),
        ({"rungs": rung(seedz=1)}, "did you mean 'seeds'"),
        ({"rungs": rung(set={"model.dim": 8})}, "model.dim is solved for from params"),
        ({"rungs": rung(set={"train.context": 8})}, r"rungs\[0\]\.set: train.context changes the context"),
        (
            {
                "rungs": rung(set={"model.layers[*].ffn.hidden_dim": 8}),
                "candidates": {"a": {"model.layers[0].ffn": "mlp"}},
            },
            r"candidates\.a: sets model\.layers\[0\]\.ffn, and rungs\[0\]\.set sets model\.layers\[\*\]\.ffn\.h",
        ),
        ({"candidates": {"a": {"model.dim": 8}}}, r"candidates\.a: sets model\.dim, and rungs\[0\] sets model\.dim"),
        ({"candidates": {"a": {"train.lr": 0.1}}, "rules": {"lr": {"value": 0.1}}}, "and rules sets train.lr"),
        ({"candidates": {"a": {"task.path": "x"}}}, r"candidates\.a: task\.path changes the data"),
        ({"candidates": {"a": {"train.steps": 5}}}, "train.steps is the rung's to set"),
        ({"candidates": {"a/b": {}}}, "cannot name a folder"),
        ({"candidates": {"a": 3}}, "neither a mapping of paths to values nor an experiment's name"),
        ({"candidates": {"a": "lama2_tiny"}}, r"candidates\.a\.experiment: no experiment 'lama2_tiny'"),
        ({"candidates": None}, "name candidates, or vary knobs"),
        ({"vary": {"train.context": [8, 16]}}, "train.context changes the context"),
        ({"branches": [0.5]}, r"branches: \[0\.5\] is not a list"),
        ({"to": {"experiment": "megalodon_tiny"}}, r"to\.tokens"),
        ({"objectives": {"params": "minimize"}}, "a ladder compares one loss"),
        ({"rungs": []}, "is not a list of rungs"),
        ({"rungs": [3]}, r"rungs\[0\]: 3 is not a mapping such as \{params: 1.0e6, tokens_per_param: 20\}"),
        ({"rungs": rung(set=["model.dim"])}, r"rungs\[0\].set: \['model.dim'\] is not a mapping of paths to values"),
        ({"candidates": ["a", "b"]}, r"candidates: \['a', 'b'\] is not a mapping of names to choices"),
        ({"candidates": {"a": {"to": "llama2_tiny"}}}, r"candidates.a.to: is what another experiment becomes"),
        ({"to": "llama2_7b"}, r"to: 'llama2_7b' is not a target \{experiment, tokens\}"),
        ({"to": {"experiment": "lama2_7b", "tokens": 3}}, "to.experiment: no experiment 'lama2_7b'; did you mean"),
        ({"hold": {"params": 1e4, "by": "model.dim"}}, "hold: each rung has a size of its own"),
        ({"vary": {"train.warmup": [3, 4]}}, "vary.train.warmup: sets train.warmup, and rules sets train.warmup"),
    ],
)
def test_mistakes_are_refused_by_path(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _check(read(tmp_path, **keys))
    assert str(caught.value).startswith(f"{tmp_path / 'space.yaml'}: ")


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ("lama2_tiny", "candidates.a.experiment: no experiment 'lama2_tiny'; did you mean 'llama2_tiny'?"),
        ({"experiment": "llama2_tiny", "to": "lama2_7b"}, "candidates.a.to: no experiment 'lama2_7b'; did you mean"),
        ({"experiment": "{folder}/mine.yaml"}, "mine.yaml: unknown key 'modell'; did you mean 'model'?"),
        ({"model.layers[*].ffn.hidden": 8}, "space.yaml: model.layers[0].ffn: candidates.a at rungs[0]: unknown knob"),
    ],
)
def test_a_candidate_is_checked_before_anything_is_written(tmp_path: Path, candidate: Any, message: str) -> None:
    (tmp_path / "mine.yaml").write_text("base: llama2_tiny\nmodell: {}\n")
    named = candidate | {"experiment": str(tmp_path / "mine.yaml")} if "{" in str(candidate)[1:] else candidate
    file = write_ladder(tmp_path, candidates={"a": named})
    for begin in (api.dry_run_ladder, lambda space: archlab.run_ladder(space, out=tmp_path / "out")):
        with pytest.raises(ConfigError) as caught:
            begin(file)
        assert message in str(caught.value)
    assert not list(tmp_path.glob("out/rungs/*/*/experiment.yaml"))


def test_a_space_without_rungs_has_no_keys_of_a_ladder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="candidates: belongs to a space with rungs"):
        load_space(write_space(tmp_path, candidates={"a": {}}))


def test_each_verb_refuses_the_others_spaces(tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"has rungs: archlab\.run_ladder"):
        archlab.search(write_ladder(tmp_path), out=tmp_path / "out")
    with pytest.raises(ArchlabError, match=r"has no rungs: archlab\.search"):
        archlab.run_ladder("quickstart", out=tmp_path / "out")


@pytest.mark.slow
def test_candidates_share_tokens_batch_and_validation(tmp_path: Path) -> None:
    candidates = {"own": {"train.lr": 0.02}, "llama": "llama2_tiny"}
    ladder = read(tmp_path, candidates=candidates, rungs=rung(params=30e3, seeds=2))
    found = {c.name: at_rung(ladder, c, ladder.rungs[0]) for c in all_candidates(ladder)}
    own, llama = found["own"], found["llama"]
    assert own.task == llama.task
    assert own.train.lr == pytest.approx(2 * llama.train.lr, rel=1e-3)
    assert own.train.steps == llama.train.steps
    assert size_of(llama) == pytest.approx(30e3, rel=0.1)
    runs = plan_runs(ladder, ladder.rungs[0], "own", own, tmp_path)
    assert [(run.seed, run.experiment.train.seed, run.folder.name) for run in runs] == [
        (0, 0, "seed_0"),
        (1, 1, "seed_1"),
    ]


@pytest.mark.slow
def test_branches_start_from_their_trunk(tmp_path: Path) -> None:
    ladder = read(tmp_path, branches=[0.5, 1.0], rungs=rung(tokens=1280))
    experiment = at_rung(ladder, ladder.named[0], ladder.rungs[0])
    trunk, branch = plan_runs(ladder, ladder.rungs[0], "megalodon", experiment, tmp_path)
    assert branch.trunk == trunk.folder
    assert branch.tokens == pytest.approx(trunk.tokens / 2, rel=0.05)
    start = branch.experiment.train.start_from
    assert start is not None
    assert trunk.experiment.train.checkpoint_at == [start.step]


def test_drawn_candidates_are_the_same_wherever_the_ladder_is_read(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "candidates": {"base": {}},
        "vary": {
            "model.layers[*].mixer.ema": ["cema", "ema", "s4d"],
            "train.lr": {"low": 0.001, "high": 0.1, "log": True},
        },
        "study": {"sampler": "random", "trials": 3},
    }
    first, again = (all_candidates(read(tmp_path, **keys)) for _ in range(2))
    assert first == again
    assert [candidate.name for candidate in first] == ["base", "c000", "c001", "c002"]


def test_choices_are_applied_to_the_target_with_its_widths(tmp_path: Path) -> None:
    choices = {"model.layers[*].ffn.hidden_dim": 24, "train.lr": 0.02, "model.layers[*].mixer.ema": "ema"}
    ladder = read(tmp_path, candidates={"a": choices}, to={"experiment": "megalodon_tiny", "tokens": 4096 * 50})
    assert ladder.target is not None
    found = at_target(ladder, ladder.target, ladder.named[0])
    layer = found.resolved["model"]["layers"][0]
    assert layer["ffn"]["hidden_dim"] == 24 * 128 // 16
    assert layer["mixer"]["ema"]["type"] == "ema"
    assert (found.train.steps, found.train.lr) == (50, pytest.approx(2 * 3e-3))


@pytest.mark.slow
def test_another_experiment_is_resized_to_the_target_unless_it_has_one_of_its_own(tmp_path: Path) -> None:
    hidden = {"model.layers[*].ffn.hidden_dim": 128}
    candidates = {
        "alike": {"experiment": "llama2_tiny"},
        "own": {"experiment": "llama2_tiny", "to": "llama2_7b", **hidden},
    }
    ladder = read(tmp_path, candidates=candidates, to={"experiment": "tiny.yaml", "tokens": 2 * 16 * 50})
    assert ladder.target is not None
    alike, own = (at_target(ladder, ladder.target, candidate) for candidate in ladder.named)
    whole = ladder.target.experiment.resolve()
    assert size_of(alike) == pytest.approx(size_of(whole), rel=0.1)
    assert depth_of(alike) == depth_of(whole) == 1 < depth_of(archlab.load("llama2_tiny"))
    assert own.resolved["model"]["dim"] == archlab.load("llama2_7b").resolved["model"]["dim"] == 4096
    assert own.resolved["model"]["layers"][0]["ffn"]["hidden_dim"] == 128 * 4096 // 128  # as wide to the model's width
    assert {each.resolved["model"]["vocab_size"] for each in (alike, own)} == {whole.resolved["model"]["vocab_size"]}
    assert {each.train.steps for each in (alike, own)} == {50}


@pytest.mark.slow
def test_a_drawn_candidate_that_breaks_a_constraint_is_infeasible_and_a_named_one_is_not(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "candidates": {"wide": {HIDDEN: 4096}},
        "vary": {HIDDEN: [16, 4096]},
        "study": {"sampler": "random", "trials": 8},
        "constraints": ["params <= 5e4"],
    }
    ladder = read(tmp_path, **keys)
    reasons = {c.values[HIDDEN]: infeasible_reason(ladder, c) for c in all_candidates(ladder) if c.is_drawn}
    assert reasons[16] == ""
    assert reasons[4096].startswith("params <= 5e4 is violated: params is ")
    assert infeasible_reason(ladder, ladder.named[0]) == ""


@pytest.mark.slow
def test_a_pattern_has_the_depth_of_each_rung_and_of_the_target(tmp_path: Path) -> None:
    pattern = {
        "of": {"m": {}, "a": {"mixer": {"type": "attention", "num_heads": 2}}},
        "period": 2,
        "at_least": {"m": 1, "a": 1},
    }
    ladder = read(
        tmp_path,
        candidates=None,
        vary={"model.layers": {"pattern": pattern}},
        study={"sampler": "random", "trials": 1},
        rungs=rung(params=20e3, layers=6),
        to={"experiment": "megalodon_tiny", "tokens": 1e6},
    )
    (candidate,) = all_candidates(ladder)
    layers = at_rung(ladder, candidate, ladder.rungs[0]).resolved["model"]["layers"]
    assert sum(entry.get("repeat", 1) for entry in layers) == 6
    assert {entry["mixer"]["type"] for entry in layers} == {"megalodon", "attention"}
    assert ladder.target is not None
    target = at_target(ladder, ladder.target, candidate).resolved["model"]["layers"]
    assert sum(entry.get("repeat", 1) for entry in target) == 4
    assert 16 in {entry["mixer"].get("num_heads") for entry in target}
