from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from archlab import ConfigError
from archlab.config.registry import Slot, find
from archlab.config.schema import coerce
from archlab.config.train_config import TrainConfig, parse_train, train_knobs


def test_an_empty_section_is_all_defaults() -> None:
    assert parse_train({}) == TrainConfig()


def test_every_setting_is_a_knob_and_its_default_is_valid() -> None:
    knobs = train_knobs()
    assert list(knobs) == [field.name for field in fields(TrainConfig)]
    for name, knob in knobs.items():
        if isinstance(knob.default, Slot):
            assert find(knob.default.kind, knob.default.default)
        else:
            assert coerce(knob.default, knob.type, name) == knob.default
        assert type(knob.default) is type(getattr(TrainConfig(), name))


def test_plain_data_says_the_same() -> None:
    settings = parse_train({"steps": 5.0, "lr": 1, "clip": None, "compile": False, "eval_tokens": 10})
    assert (settings.steps, settings.lr, settings.clip, settings.compile) == (5, 1.0, None, "off")
    assert parse_train(settings.to_plain()) == settings


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"step": 1}, "train: unknown key 'step'; did you mean 'steps'?"),
        ({"steps": 0}, "train.steps: 0 is not at least 1"),
        ({"beta2": 1.0}, "train.beta2: 1.0 is not at most 0.999999"),
        ({"clip": 0}, "train.clip: 0.0 is not above 0"),
        ({"end_lr_ratio": 1.1}, "train.end_lr_ratio: 1.1 is not at most 1"),
        ({"schedule": "cosin"}, "train.schedule: 'cosin' is not one of its values; did you mean 'cosine'?"),
        ({"tensorboard": 1}, "train.tensorboard: 1 is not true or false"),
        ({"seed": -1}, "train.seed: -1 is not at least 0 and at most 2.14748e+09"),
        ({"eval_tokens": 0}, "train.eval_tokens: 0 is not at least 1"),
        ([1], "train: [1] is not a mapping of settings"),
        ("fast", "train: 'fast' is not a mapping of settings"),
    ],
)
def test_invalid_settings(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_train(value)
    assert str(caught.value) == message
