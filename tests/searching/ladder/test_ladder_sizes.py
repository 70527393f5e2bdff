"""Architectures at other widths and depths, and the settings that follow their size."""

from typing import Any

import pytest

import archlab
from archlab.config.experiment import Experiment, load, read
from archlab.errors import ConfigError
from archlab.modeling.build import validate
from archlab.searching.ladder.rules import PowerRule, Rules, parse_rules
from archlab.searching.ladder.scaling import depth_of, resize, scale_values, width_of
from archlab.searching.ladder.sizes import size_of, solve_width

SETTINGS = {"batch_size": 8, "accumulate": 1, "context": 512, "lr": 3e-3}


def layer(experiment: Experiment, index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = experiment.resolved["model"]["layers"][index]
    return found


def test_widths_and_heads_follow_and_sizes_stay() -> None:
    small = resize(archlab.load("megalodon_7b"), width=256)
    mixer = layer(small)["mixer"]
    assert (mixer["num_heads"], mixer["shared_dim"], mixer["value_dim"]) == (1, 64, 512)
    assert mixer["ema"]["num_dims"] == 16
    assert layer(small)["norm"]["num_groups"] == 4
    assert layer(small)["ffn"]["hidden_dim"] == 512
    assert layer(resize(archlab.load("rwkv7_tiny"), width=256))["mixer"]["head_dim"] == 32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama2_tiny", "mamba2_tiny", "rwkv7_tiny", "gated_delta_net_tiny"])
def test_a_narrow_model_has_the_parameters_that_were_asked_for(name: str) -> None:
    small = solve_width(archlab.load(name), 125e3)
    validate(small)
    assert size_of(small) == pytest.approx(125e3, rel=0.1)


def head_dims(experiment: Experiment) -> list[float]:
    """Return the channels of a head in each layer whose mixer has heads."""
    model = experiment.resolved["model"]
    mixers = [entry["mixer"] for entry in model["layers"]]
    with_heads = [mixer for mixer in mixers if mixer.get("head_dim") or "num_heads" in mixer]
    return [mixer.get("head_dim") or model["dim"] / mixer["num_heads"] for mixer in with_heads]


@pytest.mark.slow
@pytest.mark.parametrize("params", [6e4, 1.25e5, 2.5e5, 5e5])
@pytest.mark.parametrize("name", ["llama2_tiny", "mamba2_tiny", "rwkv7_tiny", "gated_delta_net_tiny", "hybrid_tiny"])
def test_heads_are_about_as_wide_at_every_size(name: str, params: float) -> None:
    """And no small divisor of a width that comes near: 92 channels would have 23 heads of 4, where 32 are wanted."""
    small = solve_width(archlab.load(name), params)
    width = width_of(small)
    for before, after in zip(head_dims(archlab.load(name)), head_dims(small), strict=True):
        assert (
            1 / 2 <= after / min(before, width) <= 2
        )  # 62 channels are two heads of 31, which cannot be rotated, or one
    assert size_of(small) == pytest.approx(params, rel=0.1)


def test_a_pattern_of_layers_keeps_every_entry() -> None:
    deep = resize(archlab.load("hybrid_tiny"), layers=9)
    assert [layer(deep, index).get("repeat", 1) for index in range(4)] == [3, 2, 2, 2]
    assert depth_of(deep) == 9
    with pytest.raises(ConfigError, match="3 layers are fewer than the 4 of its pattern"):
        resize(archlab.load("hybrid_tiny"), layers=3)


@pytest.mark.slow
def test_values_that_are_fixed_hold_at_every_width() -> None:
    fixed = {"model.layers[*].ffn.hidden_dim": 40}
    small = solve_width(archlab.load("llama2_tiny"), 60e3, fixed=fixed)
    assert layer(small)["ffn"]["hidden_dim"] == 40
    assert size_of(small) == pytest.approx(60e3, rel=0.1)


@pytest.mark.slow
def test_a_size_that_no_width_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no width gives 10 parameters .* the nearest, \d+, gives [\d,]+"):
        solve_width(archlab.load("llama2_tiny"), 10)


@pytest.mark.slow
def test_a_model_that_no_width_builds_is_refused_with_its_problem() -> None:
    with pytest.raises(ConfigError, match="num_heads 7919"):
        solve_width(archlab.load("llama2_tiny"), 1e5, fixed={"model.layers[*].mixer.num_heads": 7919})


@pytest.mark.parametrize(
    ("layers", "repeats", "expected"),
    [(5, [10, 1, 1], [3, 1, 1]), (7, [10, 1, 1], [5, 1, 1]), (24, [10, 1, 1], [20, 2, 2]), (3, [9, 9, 1], [1, 1, 1])],
)
def test_layers_are_shared_in_proportion_and_every_entry_stays(
    layers: int, repeats: list[int], expected: list[int]
) -> None:
    raw = read("llama2_tiny")
    entries = [{**raw.get("model.layers")[0], "repeat": n, "dropout": n / 100} for n in repeats]
    deep = resize(raw.override({"model.layers": entries}, "test").resolve(), layers=layers)
    assert [layer(deep, index).get("repeat", 1) for index in range(3)] == expected


def test_values_of_single_layers_follow_the_width() -> None:
    values = {"model.layers[each].ffn.hidden_dim": [16, None, 48], "model.layers[each].norm": ["rms", "layer", None]}
    assert scale_values(values | {"train.warmup": 10}, 4.0, 64) == {
        "model.layers[each].ffn.hidden_dim": [64, None, 192],
        "model.layers[each].norm": ["rms", "layer", None],
        "train.warmup": 10,
    }


def test_a_width_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.head: .* is not a width to scale by"):
        width_of(load(archlab.load("llama2_tiny").resolved), "model.head")


def test_batch_and_learning_rate_follow_powers_of_the_size() -> None:
    found = Rules().train(SETTINGS, params=1e6 / 8, own_params=1e6, tokens=1e6)
    assert (found["batch_size"], found["accumulate"]) == (2, 1)
    assert found["lr"] == pytest.approx(6e-3, rel=1e-3)
    assert found["steps"] == round(1e6 / 1024)
    assert found["warmup"] == min(round(125e3 / 1024), found["steps"] // 10)
    assert found["beta2"] == 0.99


def test_a_large_batch_is_accumulated_and_has_another_beta2() -> None:
    found = Rules().train(SETTINGS, params=2e9, own_params=1e6, tokens=1e9)
    assert found["batch_size"] * found["accumulate"] == pytest.approx(1270, abs=8)
    assert found["batch_size"] <= 8
    assert found["beta2"] == 0.95


def test_rules_of_ones_own() -> None:
    rules = parse_rules(
        {"batch": None, "lr": {"value": 0.01, "at": 1e6, "power": -0.5}, "beta2": None}, transfers=False
    )
    found = rules.train(SETTINGS, params=4e6, own_params=1e6, tokens=1e6)
    assert found["lr"] == pytest.approx(0.005)
    assert (found["batch_size"], found["accumulate"]) == (8, 1)
    assert "beta2" not in found
    assert "train.lr" in rules.set_paths()
    assert PowerRule(1.0)(2.0, 3.0, 1.0) == 6.0


def test_a_parametrization_that_transfers_leaves_the_learning_rate() -> None:
    assert parse_rules(None, transfers=True).lr is None


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"lrs": {}}, "did you mean 'lr'"),
        ({"lr": 0.1}, r"rules\.lr: 0\.1 is not a rule"),
        ({"lr": {"value": 0}}, r"rules\.lr\.value"),
        ({"beta2": 0.9}, r"rules\.beta2"),
        ("all", "neither a mapping of rules nor none"),
    ],
)
def test_wrong_rules_are_refused(rules: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_rules(rules, transfers=False)
