"""Parameters with settings of their own, by name and by role."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archlab import ConfigError
from archlab.config.experiment import Experiment, load
from archlab.modeling.build import build, validate
from archlab.modeling.parametrization import parametrize
from archlab.training.optimizer import build_optimizer


def experiment(*groups: dict[str, Any], **train: Any) -> Experiment:
    return load({"base": "llama2_tiny", "train": {"groups": list(groups), **train}})


def settings_of(loaded: Experiment) -> dict[str, tuple[float, float]]:
    """Return learning rate scale and weight decay of each parameter."""
    model = build(loaded.model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, loaded.train, parametrize(loaded, model))
    return {
        names[id(parameter)]: (group.get("lr_scale", 1.0), group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_first_group_that_a_parameter_is_in_counts(optimizer: str) -> None:
    loaded = experiment(
        {"match": "*.1.*norm.*", "weight_decay": 0.5},
        {"role": "vector", "lr_scale": 2.0},
        {"match": "blocks.0.*", "role": "hidden", "weight_decay": 0},
        {"role": "input", "lr_scale": 0.1, "weight_decay": 0.2},
        optimizer=optimizer,
    )
    found = settings_of(loaded)
    assert found["blocks.1.norm.weight"] == (1.0, 0.5)
    assert found["blocks.0.norm.weight"] == (2.0, 0.0)
    assert found["blocks.0.mixer.query.weight"] == (1.0, 0.0)
    assert found["blocks.1.mixer.query.weight"] == (1.0, 0.1)
    assert found["embedding.weight"] == (0.1, 0.2)
    assert found["head.weight"] == (1.0, 0.1)
    assert len(found) == sum(1 for _ in build(loaded.model).parameters())


def test_groups_multiply_what_transfers() -> None:
    mup = {"parametrization": "mup", "base_width": 32}
    plain = settings_of(load({"base": "llama2_tiny", "train": mup}))
    found = settings_of(experiment({"match": "*.query.weight", "lr_scale": 3.0, "weight_decay": 0.2}, **mup))
    name = "blocks.0.mixer.query.weight"
    assert found[name] == (pytest.approx(3 * plain[name][0]), pytest.approx(2 * plain[name][1]))
    assert found["blocks.0.mixer.key.weight"] == plain["blocks.0.mixer.key.weight"]


def test_an_update_is_that_of_its_group() -> None:
    loaded = experiment({"match": "head.weight", "lr_scale": 0.5, "weight_decay": 0.0}, lr=0.01)
    model = build(loaded.model)
    optimizer = build_optimizer(model, loaded.train)
    before = model.head.weight.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * group.get("lr_scale", 1.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.testing.assert_close(before - model.head.weight.detach(), torch.full_like(before, 0.005))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"match": "*.nrom.*", "weight_decay": 0}], "train.groups[0]: no parameter has match '*.nrom.*'"),
        ([{"match": "head.weigth", "lr_scale": 2}], "did you mean 'head.weight'?"),
        ([{"role": "hiden", "lr_scale": 2}], "train.groups[0].role: 'hiden' is not one of its values; did you mean"),
        ([{"match": "head.*", "role": "vector", "lr_scale": 2}], "no parameter has match 'head.*' and role 'vector'"),
        ([{"match": "*", "lr_scale": 2}, {"role": "vector", "lr_scale": 3}], "train.groups[1]: all of its parameters"),
        ([{"lr_scale": 2}], "train.groups[0]: needs match"),
        ([{"match": "*"}], "train.groups[0]: needs lr_scale or weight_decay"),
        ([{"match": "*", "lr": 2}], "train.groups[0]: unknown key 'lr'"),
        ([{"match": "*", "lr_scale": 0}], "train.groups[0].lr_scale: 0.0 is not above 0"),
    ],
)
def test_what_is_no_group_is_refused(groups: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(experiment(*groups))
    assert message in str(caught.value)


def test_groups_are_written_as_they_were_given() -> None:
    groups = [{"match": "*.norm.*", "weight_decay": 0.0}, {"role": "input", "lr_scale": 0.5}]
    loaded = experiment(*groups)
    assert loaded.resolved["train"]["groups"] == groups
    assert load(loaded.resolved).train == loaded.train
    assert "groups" not in load("llama2_tiny").resolved["train"]
