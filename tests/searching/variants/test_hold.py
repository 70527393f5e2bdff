from pathlib import Path
from typing import Any

import optuna
import pytest
from search_helpers import write_space

from archlab import ConfigError
from archlab.config.experiment import read
from archlab.searching.sampling.trial_values import choose_values, held_base, solve_held
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space
from archlab.searching.variants.apply import apply_values
from archlab.searching.variants.bisection import Bisection
from archlab.searching.variants.hold import parse_hold, solve, solve_by
from archlab.searching.variants.layer_lists import merge_repeats

MIXERS = ["attention", "gla", {"type": "mamba2", "state_dim": 8, "head_dim": 8}]
DIM = {"params": 3e4, "by": "model.dim"}


def space_of(folder: Path, **asked: Any) -> Space:
    layer = {"repeat": 2, "mixer": "attention", "ffn": {"type": "swiglu", "hidden_dim": "${model.dim}"}}
    return load_space(write_space(folder, override={"model.layers": [layer]}, **asked))


def ask(space: Space, seed: int) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    chosen = solve_held(trial, space, choose_values(trial, space))
    assert chosen.problem == ""
    return chosen.values


@pytest.mark.parametrize("target", [7, 1000, 123_456, 10**9])
@pytest.mark.parametrize("divisor", [1, 3, 16, 96])
def test_the_nearest_number_that_has_a_cost_is_found(target: int, divisor: int) -> None:
    def cost(n: int) -> float | None:
        return 5 * n + n**2 if n % divisor == 0 else None

    found = Bisection(cost, target, 1, 10**6).nearest(96)
    nearest = min(range(divisor, 40_000, divisor), key=lambda n: abs(5 * n + n**2 - target))
    assert found is not None
    assert found[0] == nearest or abs(found[1] / target - 1) <= 0.002


def test_costs_that_fall_or_stay_or_are_not_there() -> None:
    assert Bisection(lambda n: 1000 / n, 10, 1, 10**6).nearest(7) == (100, 10)
    assert Bisection(lambda n: 3.0, 10, 1, 10**6).nearest(7) == (7, 3)
    assert Bisection(lambda n: None, 10, 1, 10**6).nearest(7) is None
    assert Bisection(float, 10**9, 1, 64, 16).nearest(1) == (64, 64)


@pytest.mark.parametrize(("target", "found"), [(10**9, 96), (1, 48), (70, 64)])
def test_a_multiple_is_found_where_the_ends_are_none(target: int, found: int) -> None:
    assert Bisection(float, target, 40, 100, 16).nearest(50) == (found, found)
    assert Bisection(float, target, 40, 100, 16).nearest(1000) == (found, found)
    assert Bisection(float, target, 40, 47, 16).nearest(41) is None


def test_a_number_that_divisors_leave_no_place_for_is_refused() -> None:
    raw, hold = read("llama2_tiny"), parse_hold({"params": 1e6, "by": "model.dim", "low": 40, "high": 100}, "hold")
    with pytest.raises(ConfigError, match="hold: no multiple of 36 is from 40 to 70"):
        solve_by(hold, lambda n: raw.override({"model.dim": n}, "test"), 64, multiple_of=36, most=70)


def test_a_model_that_no_number_builds_is_refused_with_its_problem() -> None:
    raw, hold = read("llama2_tiny"), parse_hold({"params": 1e6, "by": "model.dim", "high": 100}, "hold")
    heads = raw.override({"model.layers[*].mixer.num_heads": 101}, "test")
    with pytest.raises(ConfigError, match=r"attention: .*num_heads 101"):
        solve(heads, hold)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama2_tiny", "megalodon_tiny", "mamba2_tiny", "rwkv7_tiny", "gated_delta_net_tiny"])
def test_every_architecture_is_brought_to_the_same_size(name: str) -> None:
    raw, hold = read(name), parse_hold({"params_non_embedding": 2e6, "by": "model.dim"}, "hold")
    values = solve(raw, hold)
    assert hold.cost(raw.override(values, "test")) == pytest.approx(2e6, rel=0.05)


def test_layers_are_added_in_proportion() -> None:
    raw, hold = read("hybrid_tiny"), parse_hold({"params": 2e6, "by": "model.layers"}, "hold")
    layers = raw.override(solve(raw, hold), "test").get("model.layers")
    assert len(merge_repeats(layers)) == len(layers) == 4  # the kinds stay in their order
    assert 2 <= layers[0]["repeat"] <= 4


@pytest.mark.slow
@pytest.mark.parametrize("cost", [{"params": 3e4}, {"flops_per_token": 4e4}])
def test_every_trial_costs_the_same(tmp_path: Path, cost: dict[str, float]) -> None:
    vary = {
        "model.layers[*].mixer": MIXERS,
        "model.layers[*].mixer.num_heads": {"low": 2, "high": 4, "divides": "model.dim"},
        "train.warmup": {"same_as": "model.dim"},
    }
    space = space_of(tmp_path, vary=vary, hold={**cost, "by": "model.dim", "tolerance": 0.25})
    for seed in (0, 1) if "params" in cost else (2,):
        values = ask(space, seed)
        assert values["train.warmup"] == values["model.dim"]
        assert values["model.dim"] % values.get("model.layers[*].mixer.num_heads", 1) == 0
        raw = apply_values(space.varied, values, space.base, "trial")
        assert space.hold is not None
        assert space.hold.cost(raw) == pytest.approx(space.hold.target, rel=0.25)


def test_patterns_are_made_deeper_by_their_own_operator(tmp_path: Path) -> None:
    of = {"a": {"mixer": "attention"}, "g": {"mixer": "gla"}}
    vary = {"model.layers": {"pattern": {"of": of, "period": 2, "at_most": {"a": 1}, "at_least": {"a": 1}}}}
    space = space_of(tmp_path, vary=vary, hold={"params": 1.5e4, "by": "model.layers", "tolerance": 0.2})
    values = ask(space, 0)
    letters, _, depth = values["model.layers"].split(", ")
    assert int(depth.removesuffix(" layers")) > 2
    assert values == ask(space, 0)
    layers = apply_values(space.varied, values, space.base, "trial").get("model.layers")
    assert [bool(entry["mixer"] == "gla") for entry in layers] == [letters[i % 2] == "g" for i in range(len(layers))]


@pytest.mark.slow
def test_the_base_is_brought_to_the_budget_or_the_space_is_refused(tmp_path: Path) -> None:
    space = space_of(tmp_path, vary={"train.lr": [0.1]}, hold=DIM)
    assert held_base(space).get("model.dim") != 16
    space = space_of(tmp_path, vary={"train.lr": [0.1]}, hold={**DIM, "multiple_of": 64})
    with pytest.raises(ConfigError, match=r"hold: no .* gives params 30000 within "):
        held_base(space)


@pytest.mark.parametrize(
    ("hold", "message"),
    [
        ({"params": 1e4}, "hold.by: None is not the path of a whole number"),
        ({"by": "model.dim"}, "hold: holds one cost, of params, params_non_embedding"),
        ({"params": 1e4, "flops_per_token": 1e4, "by": "model.dim"}, "hold: holds one cost"),
        ({"parms": 1e4, "by": "model.dim"}, "unknown key 'parms'; did you mean 'params'"),
        ({"params": -1, "by": "model.dim"}, "hold.params: -1"),
        ({"params": 1e4, "by": "model.dim", "tolerance": 2}, "hold.tolerance: 2"),
        ({"params": 1e4, "by": "model.dim", "low": 17, "high": 31, "multiple_of": 16}, "no multiple of 16 is from 17"),
        ({"params": 1e4, "by": "train.batch_size"}, "hold.by: train.batch_size is varied"),
        ({"params": 1e4, "by": "model.dims"}, "hold.by: model.dims is not a whole number"),
        ({"params": 1e4, "by": "train.lr"}, "hold.by: train.lr is not a whole number"),
        ({"params": 1e4, "by": "model.layers[each].ffn"}, "hold.by: .* stands for several"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, hold: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space_of(tmp_path, vary={"train.batch_size": [1, 2]}, hold=hold)


def test_a_space_that_holds_is_written_down_with_it(tmp_path: Path) -> None:
    with_it, without = (space_of(tmp_path, vary={"train.lr": [0.1]}, **more) for more in ({"hold": DIM}, {}))
    assert with_it.to_plain()["hold"] == DIM
    assert "hold" not in without.to_plain()
