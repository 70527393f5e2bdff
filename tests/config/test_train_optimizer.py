"""`train.optimizer` is a component in YAML like any other."""

from __future__ import annotations

from typing import Any

import pytest

from archlab import ConfigError
from archlab.config.experiment import load, read
from archlab.config.json_schema import experiment_schema
from archlab.config.spec import Spec
from archlab.config.train_config import TrainConfig
from archlab.searching.space.load_space import load_space
from archlab.searching.variants.parameters import resolve_parameter
from archlab.searching.variants.variant import start


def optimizer_of(*overrides: str) -> Spec:
    found = load("llama2_tiny", overrides).train.optimizer
    assert isinstance(found, Spec)
    return found


def test_a_name_a_mapping_and_a_path_say_the_same() -> None:
    named, mapped = optimizer_of("train.optimizer=muon"), optimizer_of("train.optimizer={type: muon}")
    assert named == mapped
    assert named.knobs["momentum"] == 0.95
    for overrides in (
        ["train.optimizer={type: muon, momentum: 0.9}"],
        ["train.optimizer=muon", "train.optimizer.momentum=0.9"],
    ):
        assert optimizer_of(*overrides).knobs["momentum"] == 0.9


def test_another_one_keeps_the_knobs_that_it_has_as_well() -> None:
    found = optimizer_of("train.optimizer={type: lion, beta1: 0.8}", "train.optimizer=lion")
    assert found.knobs["beta1"] == 0.8
    assert optimizer_of("train.optimizer={type: lion, beta1: 0.8}", "train.optimizer=muon").name == "muon"


def test_it_is_written_with_every_default_and_read_again() -> None:
    experiment = load("llama2_tiny", ["train.optimizer=lion"])
    assert experiment.resolved["train"]["optimizer"] == {"type": "lion", "beta1": 0.9, "beta2": 0.99}
    assert load(experiment.resolved).train == experiment.train
    for overrides in ([], ["train.optimizer=adamw"], ["train.optimizer=null"]):
        assert "optimizer" not in load("llama2_tiny", overrides).resolved["train"]
    assert TrainConfig().optimizer_name == "adamw"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.optimizer=adamv"], "train.optimizer: no optimizer 'adamv'; did you mean 'adamw'?"),
        (["train.optimizer=3"], "train.optimizer: 3 is not an optimizer: give its name, or a mapping with its type"),
        (["train.optimizer.momentum=0.9"], "train.optimizer: unknown knob 'momentum' of 'adamw'"),
        (["train.optimiser=lion"], "train: unknown key 'optimiser'; did you mean 'optimizer'?"),
        (["train.groups=lion"], "train.groups: 'lion' is not a list"),
    ],
)
def test_mistakes_are_reported_by_their_path(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("llama2_tiny", overrides)
    assert message in str(caught.value)


def test_a_search_finds_the_domains_that_it_declares() -> None:
    raw = read("llama2_tiny", ["train.optimizer=muon"])
    found = resolve_parameter("train.optimizer.momentum", None, start(raw, [], "space"))
    assert found is not None
    assert found.domain.values == (0.9, 0.95)
    assert resolve_parameter("train.optimizer.beta1", None, start(raw, [], "space")) is None
    space: dict[str, Any] = {"base": "llama2_tiny", "vary": {"train.optimizer": ["adamw", "muno"]}}
    with pytest.raises(ConfigError, match="no optimizer 'muno'; did you mean 'muon'"):
        load_space(space)
    space["vary"] = {"train.optimizer": ["adamw", "muon"], "train.optimizer.momentun": "auto"}
    with pytest.raises(ConfigError, match="momentun"):
        load_space(space)


def test_editors_know_it() -> None:
    schema = experiment_schema()
    assert schema["properties"]["train"]["properties"]["optimizer"]["default"] == "adamw"
    assert "beta2" in schema["$defs"]["optimizer.lion"]["properties"]
