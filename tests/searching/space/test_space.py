from pathlib import Path
from typing import Any

import pytest
import yaml
from search_helpers import write_space

from archlab import ConfigError
from archlab.config.domains import Interval
from archlab.config.yaml_files import shipped_files
from archlab.searching.space.load_space import load_space
from archlab.searching.space.study_config import PRUNERS, REQUIRES, SAMPLERS
from archlab.searching.variants.apply import apply_values
from archlab.searching.variants.pattern import Pattern

LR = {"low": 1e-3, "high": 1e-1, "log": True}
EMA = "model.layers[*].mixer.ema"


@pytest.mark.slow
def test_shipped_spaces_load() -> None:
    for name in shipped_files("search_spaces"):
        assert (space := load_space(name)).vary or space.is_ladder


def test_defaults(tmp_path: Path) -> None:
    space = load_space(write_space(tmp_path))
    assert space.objectives == {"val_loss": "minimize"}
    assert space.study.sampler.type == "tpe"
    assert space.study.trials == 20
    assert space.can_prune


DOMINATED: dict[str, Any] = {"study": {"pruner": "dominated"}}
SECONDS: dict[str, Any] = {"train.steps": None, "train.budget": {"seconds": 10}}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"varry": {}}, r"space.yaml: unknown key 'varry'; did you mean 'vary'\?"),
        ({"vary": {}}, "vary: is empty"),
        ({"vary": {"train.lr": 3}}, "vary.train.lr: 3 is neither a list of choices"),
        ({"vary": {"train.lrr": [1]}}, "vary.train.lrr: there is no such knob"),
        ({"vary": {"train.lr": "auto"}}, "vary.train.lr: auto: no domain is declared"),
        ({"vary": {"train.lr": {"low": 0, "high": 1}}}, "vary.train.lr: 0.* is not above 0"),
        ({"vary": {EMA: ["cema", "emma"]}}, r"no ema 'emma'; did you mean 'ema'\?"),
        ({"vary": {EMA: [{"type": "cema", "ndims": 4}]}}, "unknown knob 'ndims' of 'cema'"),
        ({"vary": {EMA: ["none"], f"{EMA}.num_dims": "auto"}}, "there is no such knob, whichever choices"),
        ({"vary": {f"{EMA}.num_dims": {"low": 1.5, "high": 4}}}, "1.5 is not a whole number"),
        ({"vary": {"model.layers[7].norm": ["rms"]}}, "vary.*no such knob|past the end"),
        ({"objectives": {"val_los": "minimize"}}, r"no metric 'val_los'; did you mean 'val_loss'\?"),
        ({"objectives": {"val_loss": "down"}}, "objectives.val_loss: 'down' is neither minimize nor maximize"),
        ({"constraints": ["parms <= 3"]}, r"constraints\[0\]: no cost 'parms'; did you mean 'params'\?"),
        ({"constraints": ["params == 3"]}, r"constraints\[0\]: 'params == 3' is not a bound"),
        (
            {"constraints": [{"at": "megalodon_7", "require": "params <= 3"}]},
            "no experiment 'megalodon_7'; did",
        ),
        ({"study": {"sampler": "tpee"}}, r"study.sampler: no sampler 'tpee'; did you mean 'tpe'\?"),
        ({"study": {"pruner": {"type": "hyperband", "min_resourse": 1}}}, "unknown knob 'min_resourse' of 'hyperband'"),
        (
            {"study": {"pruner": {"type": "hyperband", "min_resource": "few"}}},
            "pruner.min_resource: 'few' is not",
        ),
        ({"study": {"pruner": "percentile"}}, "study.pruner: .*percentile"),
        ({"study": {"sampler": {"type": "tpe", "seed": 3}}}, "unknown knob 'seed' of 'tpe'"),
        ({"study": {"trials": 0}}, "study.trials: 0 is not at least 1"),
        ({"study": {"trails": 3}}, r"study: unknown key 'trails'; did you mean 'trials'\?"),
        ({"objectives": {"params": "minimize"}, "study": {"pruner": "median"}}, "median needs a metric like val_loss"),
        ({"override": {"train.eval_every": 0}, "study": {"pruner": "median"}}, "nothing to judge by"),
        ({"base": "nowhere"}, "base: no experiment 'nowhere'"),
        ({"base": None}, "base: is missing: name the experiment to search around"),
        ({"base": 3}, "base: 3 is not an experiment: give its name, its file, or its sections"),
        ({"constraints": ["params <= many"]}, r"constraints\[0\]: 'many' is not a number"),
        ({"constraints": ["params <= nan"]}, r"constraints\[0\]: 'nan' is not a number"),
        (
            {"constraints": [{"at": "megalodon_7", "require": "params <= 3"}]},
            r"constraints\[0\]\.at: no experiment 'megalodon_7'; did",
        ),
        ({"objectives": {"days": {"device": "h100", "direction": "down"}}}, "days.direction: 'down' is neither"),
        ({"objectives": {"val_loss": "minimize", "val_bpb": "minimize"}, **DOMINATED}, "needs one .* there are 2"),
        ({"objectives": {"params": "minimize"}, **DOMINATED}, "needs one validation metric, and there are 0"),
        ({"study": {"pruner": "promotion", "runs_per_trial": 2}}, "of one run, and study.runs_per_trial makes several"),
        ({"study": {"pruner": "promotion"}, "override": SECONDS}, "needs the number of steps, .* a budget of seconds"),
        ({"study": {"budget": 8}}, r"study.budget: 8 is not a mapping such as \{hours: 8\}"),
        ({"study": {"launcher": "local", "resources": 4}}, r"study.resources: 4 is not a mapping such as \{cpus: 4"),
        ({"tasks": {"easy": ["train.steps"]}}, r"tasks.easy: \['train.steps'\] is not a mapping of paths to values"),
        ({"hold": "params"}, r"hold: 'params' is not a mapping such as \{params: 1.0e6, by: model.dim\}"),
        ({"vary": {"train.warmup": {"low": 0, "high": 4, "step": 1.5}}}, "step is 1.5, and the knob takes whole"),
        ({"vary": {"model.layers[*].mixer[each].ema": ["none"]}}, r"\[each\] is the only wildcard before"),
        ({"vary": {"model.layers": ["attention"]}}, "'attention' is not a list of one or more layers"),
        ({"vary": {"model.layers": [[]]}}, r"\[\] is not a list of one or more layers"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_space(write_space(tmp_path, **asked))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "choice", "message"),
    [
        ("mixer", {"type": "attention", "num_heads": "x"}, "vary.model.layers[*].mixer.num_heads: 'x' is not a whole"),
        ("mixer", {"type": "attention", "position": "ropee"}, "mixer.position: no position 'ropee'; did you mean"),
        ("mixer", {"type": "mega", "ema": {"type": "cema", "dims": 3}}, "mixer.ema: unknown knob 'dims' of 'cema'"),
        ("mixer", {"type": "attention", "position": 3}, "mixer.position: 3 is not a position: give its name"),
        ("", {"repeat": 0}, "vary.model.layers[*].repeat: 0 is not at least 1"),
    ],
)
def test_what_is_below_a_choice_is_checked_too(tmp_path: Path, path: str, choice: Any, message: str) -> None:
    where = f"model.layers[*].{path}".removesuffix(".")
    with pytest.raises(ConfigError) as caught:
        load_space(write_space(tmp_path, vary={where: [choice]}))
    assert message in str(caught.value)


def test_layers_in_a_list_are_checked_each_and_interpolations_are_left(tmp_path: Path) -> None:
    of_dim = {"mixer": "attention", "ffn": {"type": "swiglu", "hidden_dim": "${model.dim}"}}
    vary = {"model.layers": [[of_dim], [of_dim, {"mixer": "atention"}]]}
    with pytest.raises(
        ConfigError, match=r"vary.model.layers\[1\].mixer: no mixer 'atention'; did you mean 'attention'"
    ):
        load_space(write_space(tmp_path, vary=vary))
    good = load_space(write_space(tmp_path, vary={"model.layers": [[of_dim], [of_dim, of_dim]]}))
    assert apply_values(good.vary, {"model.layers": [of_dim]}, good.base, "test").resolve().model.to_plain()["layers"][
        0
    ]["ffn"]["hidden_dim"] == good.base.get("model.dim")


def test_overrides_change_a_part_of_a_domain() -> None:
    base = {"base": "llama2_tiny"}
    layers = {"pattern": {"of": {"a": {}, "m": {"mixer": "mamba"}}, "period": 4}}
    vary = {"train.lr": {"low": 1e-3, "high": 1e-2}, "model.layers": layers}
    space = load_space({**base, "vary": vary}, ["vary.train.lr.high=0.1", "vary.model.layers.pattern.period=3"])
    assert space.vary["train.lr"] == Interval(1e-3, 0.1)
    pattern = space.vary["model.layers"]
    assert isinstance(pattern, Pattern)
    assert pattern.period == 3


def test_overrides_change_the_space_or_its_base(tmp_path: Path) -> None:
    file = write_space(tmp_path, override={"train.steps": 6})
    overrides = ["train.context=12", "study.trials=7", "vary.train.lr=[0.1,0.2]", "vary.train.clip=[1.0,null]"]
    space = load_space(file, overrides)
    assert (space.base.get("train.steps"), space.base.get("train.context")) == (6, 12)
    assert space.study.trials == 7
    assert list(space.vary) == ["train.lr", "train.clip"]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_can_be_made(tmp_path: Path, sampler: str) -> None:
    if sampler in REQUIRES:
        pytest.importorskip(REQUIRES[sampler])
    file = write_space(tmp_path, study={"sampler": sampler})
    assert type(load_space(file).study.make_sampler(3)).__name__ == SAMPLERS[sampler]


@pytest.mark.parametrize("pruner", sorted(set(PRUNERS) - {"percentile", "threshold"}))
def test_every_pruner_can_be_made(tmp_path: Path, pruner: str) -> None:
    settings = load_space(write_space(tmp_path, study={"pruner": pruner})).study
    assert type(settings.make_pruner(True, 100, 10)).__name__ == PRUNERS[pruner]


def test_a_space_written_down_and_read_again_is_the_same(tmp_path: Path) -> None:
    constraints = ["params <= 4e6", {"at": "tiny.yaml", "require": "memory_per_device <= 80e9"}]
    space = load_space(write_space(tmp_path, constraints=constraints, study={"trials": 3}))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "base.yaml").write_text(yaml.safe_dump(space.base_to_plain()))
    (folder / "search.yaml").write_text(yaml.safe_dump(space.to_plain()))
    again = load_space(folder / "search.yaml")
    assert (again.vary, again.study, again.objectives) == (space.vary, space.study, space.objectives)
    assert again.base.resolve().resolved | {"name": ""} == space.base.resolve().resolved | {"name": ""}
    assert [c.name for c in again.constraints] == ["params <= 4e6", "memory_per_device <= 80e9 at tiny"]


def test_an_excess_is_a_share_of_the_bound_and_strict_bounds_are_strict(tmp_path: Path) -> None:
    texts = ["params <= 100", "params < 100", "params >= 100", "params > 100"]
    bounds = load_space(write_space(tmp_path, constraints=texts)).constraints
    assert [bound.violation({"params": 150}) > 0 for bound in bounds] == [True, True, False, False]
    assert [bound.violation({"params": 100}) > 0 for bound in bounds] == [False, True, False, True]
    assert bounds[0].violation({"params": 150}) == 0.5


def test_the_password_of_a_storage_is_in_nothing_that_is_stored_or_printed(tmp_path: Path) -> None:
    url = "postgresql://me:geheim@host/db?sslpassword=geheim&sslmode=require"
    space = load_space(write_space(tmp_path, study={"storage": url}))
    assert space.study.storage == "postgresql://me@host/db?sslmode=require"
    assert "geheim" not in yaml.safe_dump(space.to_plain()) + repr(space)
    for wrong in (f"study={url}", f"study.storage=[{url!r}]", f"study.storge={url}", f"study.seed={url}"):
        with pytest.raises(ConfigError) as caught:
            load_space(tmp_path / "space.yaml", [wrong])
        assert "geheim" not in str(caught.value)
