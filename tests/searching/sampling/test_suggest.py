from pathlib import Path
from typing import Any

import optuna
import pytest
from search_helpers import LAYER, write_space

from archlab import ConfigError
from archlab.searching.sampling.enqueue_params import optuna_parameters
from archlab.searching.sampling.numbered_samplers import FixedSampler
from archlab.searching.sampling.repeats import with_own_seed
from archlab.searching.sampling.suggest import suggest
from archlab.searching.sampling.trial_values import choose_values
from archlab.searching.space.load_space import load_space
from archlab.searching.space.search_space import Space
from archlab.searching.variants.divisors import NoValue

EMA = "model.layers[*].mixer.ema"
ATTENTION = "model.layers[*].mixer.attention"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def space_of(folder: Path, vary: dict[str, Any]) -> Space:
    return load_space(write_space(folder, vary=vary))


def ask(space: Space, fixed: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return Optuna's parameters and the values by path, some parameters fixed."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(fixed)
    trial = study.ask()
    values = suggest(trial, space.vary, space.base)
    return trial.params, values


def test_a_knob_below_a_choice_exists_only_when_that_choice_was_made(tmp_path: Path) -> None:
    space = space_of(tmp_path, {f"{EMA}.num_dims": "auto", EMA: ["cema", "ema", "none"]})
    name = f"{EMA}{{cema,ema,none}}"
    params, values = ask(space, {name: "cema"})
    assert list(params) == [name, f"{EMA}=cema.num_dims{{4,8,16,32}}"]
    assert list(values) == [EMA, f"{EMA}.num_dims"]
    assert f"{EMA}=ema.num_dims{{2,4,8,16}}" in ask(space, {name: "ema"})[0]
    params, values = ask(space, {name: "none"})
    assert (params, values) == ({name: "none"}, {EMA: "none"})


def test_three_levels(tmp_path: Path) -> None:
    mixer = "model.layers[*].mixer"
    mega = {"type": "mega", "shared_dim": 8, "value_dim": 16}
    space = space_of(tmp_path, {mixer: ["attention", mega], EMA: ["ema", "none"], f"{EMA}.num_dims": "auto"})
    label = '{"shared_dim":8,"type":"mega","value_dim":16}'
    mixers = f"{mixer}{{attention,{label}}}"
    (name,) = [name for name in ask(space, {})[0] if name.startswith(f"{mixer}{{")]
    assert len(name) <= len(mixers)
    params, values = ask(space, {name: label, f"{mixer}={label}.ema{{ema,none}}": "ema"})
    assert values[mixer] == mega
    assert values[EMA] == "ema"
    assert f"{mixer}={label}.ema=ema.num_dims{{2,4,8,16}}" in params
    assert list(ask(space, {name: "attention"})[1]) == [mixer]


def test_a_bare_name_keeps_the_knobs_that_the_new_component_has_too(tmp_path: Path) -> None:
    space = space_of(tmp_path, {ATTENTION: ["laplace"]})
    _, values = ask(space, {})
    attention = space.base.override(values, "trial").resolve().resolved["model"]["layers"][0]["mixer"]["attention"]
    assert (attention["type"], attention["window"], attention["window_size"]) == ("laplace", "chunk", 8)


def test_every_layer_that_has_the_knob_gets_the_same_value(tmp_path: Path) -> None:
    layers = [
        {"mixer": {"type": "megalodon", "shared_dim": 8, "value_dim": 16}, "ffn": {"type": "swiglu", "hidden_dim": 16}},
        {"mixer": "attention", "ffn": {"type": "swiglu", "hidden_dim": 16}},
    ]
    file = write_space(tmp_path, vary={EMA: ["s4d"]}, override={"model.layers": layers})
    space = load_space(file)
    _, values = ask(space, {})
    model = space.base.override(values, "trial").resolve().resolved["model"]
    assert model["layers"][0]["mixer"]["ema"]["type"] == "s4d"
    assert "ema" not in model["layers"][1]["mixer"]


def test_choices_come_back_exactly_as_they_were_written(tmp_path: Path) -> None:
    chunk = {"type": "softmax", "window": "chunk", "window_size": 4}
    vary = {ATTENTION: ["softmax", chunk], "train.clip": [None, 0.5, 1], "train.checkpoint_activations": [True, False]}
    space = space_of(tmp_path, vary)
    seen = set()
    for seed in range(20):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        values = suggest(study.ask(), space.vary, space.base)
        assert all(any(value is known or value == known for known in vary[path]) for path, value in values.items())
        seen.update((path, str(value)) for path, value in values.items())
    assert len(seen) == 7


def test_whole_numbers_by_the_type_of_the_knob(tmp_path: Path) -> None:
    vary = {
        "train.batch_size": {"low": 1, "high": 64, "log": True},
        f"{EMA}.num_dims": {"low": 2, "high": 8, "step": 2},
        "train.weight_decay": {"low": 0, "high": 1},
        "model.layers[0].repeat": {"low": 1, "high": 3},
    }
    params, values = ask(space_of(tmp_path, vary), {})
    assert [type(values[path]) for path in vary] == [int, int, float, int]
    assert values[f"{EMA}.num_dims"] % 2 == 0
    assert set(params) == set(vary)


def test_growing_or_reordering_choices_does_not_break_a_study(tmp_path: Path) -> None:
    study = optuna.create_study(sampler=load_space(write_space(tmp_path)).study.make_sampler(0))
    for choices in (["ema", "cema"], ["cema", "ema"], ["cema", "ema", "s4d"]):
        space = space_of(tmp_path, {EMA: choices})
        trial = study.ask()
        suggest(trial, space.vary, space.base)
        study.tell(trial, 1.0)
    names = [next(iter(trial.params)) for trial in study.trials]
    assert names == [f"{EMA}{{cema,ema}}"] * 2 + [f"{EMA}{{cema,ema,s4d}}"]


def test_auto_that_differs_between_layers_is_refused(tmp_path: Path) -> None:
    layers = [{"mixer": {"type": "megalodon", "shared_dim": 8, "value_dim": 16}}, {"mixer": "attention"}]
    file = write_space(tmp_path, vary={"model.layers[*].mixer.num_heads": "auto"}, override={"model.layers": layers})
    with pytest.raises(ConfigError, match="declare different domains"):
        load_space(file)


def test_values_are_those_of_the_parameters_that_they_are_enqueued_as(tmp_path: Path) -> None:
    vary: dict[str, Any] = {
        "model.layers[each].mixer.ema": ["cema", "ema", "none"],
        "model.layers[each].mixer.ema.num_dims": "auto",
        "model.layers[each].ffn.hidden_dim": {"low": 8, "high": 32, "step": 8},
        "train.warmup": {"low": 1, "high": 4},
        "train.weight_decay": {"low": 0.0, "high": 0.5},
    }
    space = load_space(write_space(tmp_path, vary=vary, override={"model.layers": [{**LAYER, "repeat": 3}]}))
    for seed in range(5):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        values = suggest(study.ask(), space.varied, space.base)
        other = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed + 100))
        other.enqueue_trial(optuna_parameters(space.varied, space.base, values))
        assert suggest(other.ask(), space.varied, space.base) == values


def test_what_is_below_a_value_that_is_not_given_is_left_to_the_sampler(tmp_path: Path) -> None:
    space = space_of(tmp_path, {EMA: ["cema", "ema"], f"{EMA}.num_dims": "auto", "train.clip": [1.0, 2.0]})
    parameters = optuna_parameters(space.varied, space.base, {f"{EMA}.num_dims": 4, "train.clip": 2.0})
    assert parameters == {"train.clip{1.0,2.0}": 2.0}


def test_a_trial_without_a_divisor_tells_the_sampler(tmp_path: Path) -> None:
    heads = "model.layers[*].mixer.num_heads"
    space = space_of(tmp_path, {"model.dim": [16, 25], heads: {"low": 2, "high": 4, "divides": "model.dim"}})
    for dim, divides in ((16, None), (25, 1.0)):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.enqueue_trial({"model.dim{16,25}": dim})
        trial = study.ask()
        if divides is None:
            assert choose_values(trial, space)[heads] in (2, 4)
        else:
            with pytest.raises(NoValue, match=r"num_heads: no number of 2 to 4 divides model\.dim 25"):
                choose_values(trial, space)
        assert study.trials[0].constraints == ({} if divides is None else {"divides": divides})


def test_a_fixed_sampler_asks_another_for_what_it_does_not_know() -> None:
    study = optuna.create_study(sampler=FixedSampler({"known": 3}, optuna.samplers.RandomSampler(seed=0)))
    trial = study.ask()
    assert trial.suggest_int("known", 1, 9) == 3
    other = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    assert trial.suggest_float("unknown", 0, 1) == other.suggest_float("unknown", 0, 1)


def test_a_varied_seed_stays_where_a_candidate_is_repeated(tmp_path: Path) -> None:
    space = space_of(tmp_path, {"train.lr": [0.1]})
    study = optuna.create_study()
    for number in range(3):
        trial = study.ask()
        trial.set_user_attr("values", {"train.lr": 0.1})
        raw = with_own_seed(study, trial, space.base, {"train.lr": 0.1}, runs=2)
        assert raw.resolve().train.seed == 2 * number
        assert with_own_seed(study, trial, space.base, {"train.seed": 7}, runs=2) is space.base
