from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Write

from archlab.config.experiment import copy_data
from archlab.config.json_schema import experiment_schema
from archlab.config.plugins import load_plugin
from archlab.config.yaml_files import load_yaml, shipped_files
from archlab.searching.space.space_schema import space_schema

jsonschema = pytest.importorskip("jsonschema")

LAYERS = "layers: [{mixer: {type: mega, ema: {type: cema, num_dims: 4}}}]"
GOLDEN = Path(__file__).parents[1] / "golden" / "resolved"


@pytest.fixture(scope="module")
def experiments() -> Any:
    return _validator(experiment_schema())


@pytest.fixture(scope="module")
def spaces() -> Any:
    return _validator(space_schema())


def _validator(schema: dict[str, Any]) -> Any:
    schema = json.loads(json.dumps(schema))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", list(shipped_files()))
def test_shipped_experiments_are_valid(name: str, experiments: Any) -> None:
    experiments.validate(load_yaml(shipped_files()[name]))
    experiments.validate(yaml.safe_load((GOLDEN / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", list(shipped_files("search_spaces")))
def test_shipped_spaces_are_valid(name: str, spaces: Any) -> None:
    spaces.validate(load_yaml(shipped_files("search_spaces")[name]))


@pytest.mark.parametrize(
    "text",
    [
        f"{{model: {{type: stack, dim: 8, {LAYERS}}}, task: text}}",
        f"{{model: {{type: stack, dim: '${{train.context}}', {LAYERS}}}, task: text, train: {{lr: '${{x}}'}}}}",
        "{base: quickstart, train: {clip: null, compile: off}, override: {'model.layers[*].mixer': mega}}",
        "{base: quickstart, model: {dim: 3}}",
        "{format: 2, base: quickstart}",
        "{base: quickstart, train: {budget: {tokens: 1.0e+7}, start_from: {checkpoint: runs/a, step: 4}}}",
    ],
)
def test_right_experiments_are_valid(text: str, experiments: Any) -> None:
    experiments.validate(copy_data(yaml.safe_load(text), "test"))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{base: quickstart, trian: {}}", []),
        ("{task: text}", []),
        ("{base: quickstart, format: 99}", ["format"]),
        ("{base: quickstart, train: {lrr: 1}}", ["train"]),
        ("{base: quickstart, train: {lr: fast}}", ["train", "lr"]),
        ("{base: quickstart, train: {lr: 0}}", ["train", "lr"]),
        ("{base: quickstart, train: {steps: 1.5}}", ["train", "steps"]),
        ("{base: quickstart, train: {compile: blok}}", ["train", "compile"]),
        ("{base: quickstart, train: {budget: {token: 1}}}", ["train", "budget"]),
        ("{base: quickstart, train: {start_from: {step: 1}}}", ["train", "start_from"]),
        ("{base: quickstart, task: texts}", ["task"]),
        ("{base: quickstart, model: {type: stack, dmi: 3}}", ["model"]),
        ("{base: quickstart, model: {dmi: 3}}", ["model"]),
        ("{base: quickstart, model: {type: stack, layers: []}}", ["model", "layers"]),
        ("{base: quickstart, model: {type: stack, layers: [{mixer: megaa}]}}", ["model", "layers"]),
        (
            "{base: quickstart, model: {type: stack, layers: [{mixer: {type: ema, ema: {type: ema, num_dims: 0}}}]}}",
            ["model"],
        ),
    ],
)
def test_mistakes_are_found(text: str, place: list[str], experiments: Any) -> None:
    errors = list(experiments.iter_errors(yaml.safe_load(text)))
    assert errors
    assert all(list(error.absolute_path)[: len(place)] == place for error in errors)


@pytest.mark.parametrize(
    "change",
    [
        {"vary": {}},
        {"vary": {"train.lr": []}},
        {"vary": {"train.lr": {"low": 1}}},
        {"vary": {"train.lr": {"low": 1, "high": 2, "lgo": True}}},
        {"vary": {"train.lr": {"same_as": "train.clip", "log": True}}},
        {"vary": {"model.layers": {"pattern": {"of": {"a": {}, "b": {}}}}}},
        {"vary": {"model.layers": {"pattern": {"of": {"a": {}, "bb": {}}, "period": 2}}}},
        {"vary": {"model.layers": {"pattern": {"of": {"a": {}, "b": {}}, "period": 2, "operator": "stak"}}}},
        {"hold": {"by": "model.dim"}},
        {"hold": {"params": 1, "flops_per_token": 1, "by": "model.dim"}},
        {"vray": {}},
        {"objectives": {"losss": "minimize"}},
        {"objectives": {"val_loss": "min"}},
        {"constraints": ["parms <= 3"]},
        {"study": {"sampler": "tpee"}},
        {"study": {"trials": 0}},
        {"base": {"base": "quickstart", "train": {"lr": "fast"}}},
    ],
)
def test_mistakes_in_a_space_are_found(change: dict[str, Any], spaces: Any) -> None:
    right = {"base": "quickstart", "vary": {"train.lr": {"low": 0.1, "high": 1}, "model.layers[*].mixer": "auto"}}
    spaces.validate(right | {"constraints": ["params <= 4e6"], "study": {"pruner": {"type": "median"}}})
    assert not spaces.is_valid(right | change)


def test_right_spaces_of_patterns_and_budgets_are_valid(spaces: Any) -> None:
    of = {"a": {"mixer": "attention"}, "m": {"mixer": {"type": "mamba2"}}}
    pattern = {"of": of, "period": 8, "at_least": {"a": 1}, "operator": ["stack", "stretch"], "depth": 24}
    heads = {"low": 2, "high": 8, "divides": "model.dim"}
    vary = {"model.layers": {"pattern": pattern}, "model.layers[a].mixer.num_heads": heads}
    tie = {"model.layers[each].ffn.hidden_dim": {"same_as": "model.dim"}}
    spaces.validate({"base": "quickstart", "vary": vary | tie, "hold": {"params": 1e6, "by": "model.dim"}})


def test_knobs_have_defaults_descriptions_and_a_plugin_is_included(write: Write) -> None:
    plugin = '''
from torch import nn

from archlab import register


@register("norm", "mine")
class Mine(nn.Module):
    """Halves.

    Args:
        times: The number of halvings.
    """

    def __init__(self, dim: int, *, times: int = 1) -> None:
        super().__init__()
'''
    load_plugin("mine.py", write(plugin, "mine.py").parent)
    definitions = experiment_schema()["$defs"]
    mine = definitions["norm.mine"]
    assert mine["description"] == "Halves."
    assert mine["properties"]["times"]["default"] == 1
    assert mine["properties"]["times"]["description"] == "The number of halvings."
    assert "mine" in definitions["norm"]["then"]["anyOf"][0]["enum"]
