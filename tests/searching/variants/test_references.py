from pathlib import Path
from typing import Any

import optuna
import pytest
from search_helpers import LAYER, write_space

from archlab import ConfigError
from archlab.searching.sampling.suggest import suggest
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space
from archlab.searching.variants import selectors
from archlab.searching.variants.apply import apply_values
from archlab.searching.variants.divisors import NoValue

HEADS = "model.layers[*].mixer.num_heads"
EACH_HEADS = "model.layers[each].mixer.num_heads"
FFN = "model.layers[*].ffn.hidden_dim"
ATTENTION = {"mixer": {"type": "attention", "num_heads": 4}, "ffn": {"type": "swiglu", "hidden_dim": 16}}


def space_of(folder: Path, vary: dict[str, Any], layers: list[Any] | None = None) -> Space:
    return load_space(write_space(folder, vary=vary, override={"model.layers": layers or [ATTENTION]}))


def ask(space: Space, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    trial = study.ask()
    values = suggest(trial, space.varied, space.base)
    return trial.params, values


def heads(space: Space, values: dict[str, Any]) -> list[Any]:
    raw = apply_values(space.varied, values, space.base, "trial")
    layers = raw.resolve().model.knobs["layers"]
    return [layer.knobs["mixer"].knobs.get("num_heads") for layer in layers for _ in range(layer.repeat)]


def test_each_is_a_parameter_for_every_layer_repeated_ones_among_them(tmp_path: Path) -> None:
    space = space_of(tmp_path, {EACH_HEADS: [1, 2, 4, 8]}, [{"repeat": 2, **ATTENTION}, ATTENTION])
    params, values = ask(space, 3)
    assert list(params) == [f"model.layers[{index}].mixer.num_heads{{1,2,4,8}}" for index in range(3)]
    assert values == {EACH_HEADS: list(params.values())}
    assert heads(space, values) == values[EACH_HEADS]
    equal = apply_values(space.varied, {EACH_HEADS: [2, 2, 8]}, space.base, "trial")
    assert [entry.get("repeat") for entry in equal.get("model.layers")] == [2, None]


def test_each_below_each_is_conditional_layer_by_layer(tmp_path: Path) -> None:
    mixers = ["attention", {"type": "mamba2", "state_dim": 4, "head_dim": 8}]
    vary = {EACH_HEADS: {"low": 2, "high": 8, "divides": "model.dim"}, "model.layers[each].mixer": mixers}
    space = space_of(tmp_path, vary, [{"repeat": 6, **ATTENTION}])
    params, values = ask(space)
    chosen = values["model.layers[each].mixer"]
    assert {str(entry) for entry in chosen} == {str(entry) for entry in mixers}
    for index, (mixer, count) in enumerate(zip(chosen, values[EACH_HEADS], strict=True)):
        assert (count is not None) == (mixer == "attention")
        assert (f"model.layers[{index}].mixer=attention.num_heads{{2,4,8}}" in params) == (mixer == "attention")


def test_each_is_spread_over_the_layers_of_another_experiment(tmp_path: Path) -> None:
    space = space_of(tmp_path, {EACH_HEADS: [1, 2, 4]}, [{"repeat": 3, **ATTENTION}])
    large = space.base.override({"model.layers": [{"repeat": 6, **ATTENTION}]}, "large")
    there = apply_values(space.varied, {EACH_HEADS: [1, 4, 2]}, large, "trial", keep_depth=True)
    assert [(e["repeat"], e["mixer"]["num_heads"]) for e in there.get("model.layers")] == [(2, 1), (2, 4), (2, 2)]


def test_ties_have_the_value_of_another_knob_layer_by_layer(tmp_path: Path) -> None:
    vary = {
        "model.layers[*].mixer.num_kv_heads": {"same_as": HEADS},
        EACH_HEADS: [1, 2, 4],
        FFN: {"same_as": "model.dim"},
    }
    space = space_of(tmp_path, vary, [{"repeat": 4, **ATTENTION}])
    _, values = ask(space, 1)
    layers = apply_values(space.varied, values, space.base, "trial").resolve().model.knobs["layers"]
    kv_heads = [e.knobs["mixer"].knobs["num_kv_heads"] for e in layers for _ in range(e.repeat)]
    assert kv_heads == values[EACH_HEADS] == heads(space, values)
    assert values[FFN] == 16


def test_a_tie_follows_what_was_suggested_and_what_is_a_default(tmp_path: Path) -> None:
    vary = {
        FFN: {"same_as": "train.batch_size"},
        "train.batch_size": [3],
        "train.seed": {"same_as": "train.accumulate"},
    }
    _, values = ask(space_of(tmp_path, vary))
    assert (values[FFN], values["train.seed"]) == (3, 1)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"train.lr": {"same_as": "train.lr"}}, "vary.train.lr: depends on itself: train.lr -> train.lr"),
        (
            {"train.steps": {"same_as": "train.warmup"}, "train.warmup": {"same_as": "train.steps"}},
            "depends on itself: train.steps -> train.warmup -> train.steps",
        ),
        ({"train.lr": {"same_as": "train.lrr"}}, "vary.train.lr: same_as: there is no knob train.lrr"),
        ({"train.lr": {"same_as": "train.clip", "log": True}}, "same_as stands alone, without 'log'"),
        ({"train.lr": {"same_as": 3}}, "vary.train.lr.same_as: 3 is not the path"),
        ({"train.steps": {"same_as": "train.lr"}}, "vary.train.steps.same_as: 0.01 is not a whole number"),
        ({HEADS: {"low": 2, "high": 8, "divides": "train.lr"}}, "divides: train.lr is 0.01, not a whole number"),
        ({HEADS: {"low": 5, "high": 7, "divides": "model.dim"}}, "no number of 5 to 7 divides model.dim 16"),
        ({HEADS: {"low": 5, "high": 7, "divides": "model.dims"}}, "divides model.dims, which is not there"),
        ({HEADS: {"low": 1, "high": 8, "log": True, "divides": "model.dim"}}, "a range that divides has no log"),
        ({HEADS: {"low": 0.5, "high": 8, "divides": "model.dim"}}, "needs whole numbers from 1"),
        ({"model.layers[each].repeat": [1, 2]}, "repeat is not varied where every layer is by itself"),
        ({"model.layers[m].ffn": ["none"]}, r"\[m\] is not a layer of a pattern of model.layers"),
        ({"model.layers[each].x": [1]}, "there is no such knob"),
        ({"model[each].x": [1]}, "is not a list of layers"),
        ({"model.layers[every].x": [1]}, "is not a path"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, vary: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        space_of(tmp_path, vary)
    assert "\n" not in str(caught.value)


def test_a_tie_to_layers_that_differ_is_refused(tmp_path: Path) -> None:
    other = {**ATTENTION, "ffn": {"type": "swiglu", "hidden_dim": 24}}
    with pytest.raises(
        ConfigError, match=r"space.yaml: vary.train.warmup: same_as: the layers differ in model.layers\[\*\]"
    ):
        space_of(tmp_path, {"train.warmup": {"same_as": FFN}}, [ATTENTION, other])


def test_a_tie_follows_an_interpolation(tmp_path: Path) -> None:
    of_dim = {**ATTENTION, "ffn": {"type": "swiglu", "hidden_dim": "${model.dim}"}}
    space = space_of(tmp_path, {"train.warmup": {"same_as": FFN}, "model.dim": [24]}, [of_dim])
    _, values = ask(space)
    assert values["train.warmup"] == 24


def test_layers_that_an_interpolation_counts_stay_single(tmp_path: Path) -> None:
    vary, norms = {"model.layers[each].norm": ["rms", "layer"]}, "model.layers[each].norm"
    for warmup, entries in (("${model.layers[1].ffn.hidden_dim}", 2), (16, 1)):
        override = {"model.layers": [ATTENTION, ATTENTION], "train.warmup": warmup}
        space = load_space(write_space(tmp_path, vary=vary, override=override))
        raw = apply_values(space.varied, {norms: ["rms", "rms"]}, space.base, "trial")
        assert len(raw.get("model.layers")) == entries
        assert raw.resolve().train.warmup == 16


@pytest.mark.parametrize(
    ("path", "other", "is_above"),
    [
        ("model.layers[*]", "model.layers[a].ffn", True),
        ("model.layers[each]", "model.layers[2].ffn", True),
        ("model.layers[a]", "model.layers[*].ffn", True),
        ("model.layers[a]", "model.layers[a].ffn", True),
        ("model.layers[a]", "model.layers[m].ffn", False),
        ("model.layers[1]", "model.layers[2].ffn", False),
        ("model.layers[*]", "model.layers", False),
        ("model.layers[*]", "model.layers.ffn.bias", False),
    ],
)
def test_a_path_is_above_another_whatever_its_wildcards_mean(path: str, other: str, is_above: bool) -> None:
    assert selectors.is_ancestor(path, other) is is_above


def test_divisors_depend_on_what_was_chosen_and_so_do_their_names(tmp_path: Path) -> None:
    vary = {HEADS: {"low": 2, "high": 16, "divides": "model.dim"}, "model.dim": [12, 16, 30]}
    space, seen = space_of(tmp_path, vary), set()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=3))
    for _ in range(20):
        trial = study.ask()
        values = suggest(trial, space.varied, space.base)
        assert values["model.dim"] % values[HEADS] == 0
        seen |= set(trial.params)
        study.tell(trial, 1.0)
    assert {f"{HEADS}{{{dims}}}" for dims in ("2,3,4,6,12", "2,4,8,16", "2,3,5,6,10,15")} < seen


def test_what_no_number_divides_has_no_value(tmp_path: Path) -> None:
    space = space_of(tmp_path, {HEADS: {"low": 4, "high": 8, "divides": "model.dim"}, "model.dim": [16, 17]})
    with pytest.raises(NoValue, match=r"no number of 4 to 8 divides model\.dim 17"):
        [ask(space, seed) for seed in range(9)]


def test_old_spaces_have_the_parameters_that_they_had(tmp_path: Path) -> None:
    ema = "model.layers[*].mixer.ema"
    vary = {
        ema: ["none"],
        "model.layers[*].mixer.attention": ["softmax"],
        "model.layers[0].norm": ["rms"],
        "train.lr": {"low": 1, "high": 2},
    }
    params, values = ask(space_of(tmp_path, vary, [LAYER]), 0)
    assert list(params) == [
        "train.lr",
        "model.layers[0].norm{rms}",
        f"{ema}{{none}}",
        "model.layers[*].mixer.attention{softmax}",
    ]
    assert list(values) == ["train.lr", "model.layers[0].norm", ema, "model.layers[*].mixer.attention"]
