from __future__ import annotations

from typing import Any

import pytest
import yaml
from conftest import Tiny, Write

from archlab import ConfigError
from archlab.config import experiment as config
from archlab.config.budget import Budget
from archlab.config.train_config import TrainConfig, parse_train


def test_a_budget_of_tokens_is_whole_steps() -> None:
    train = parse_train({"batch_size": 2, "accumulate": 3, "context": 10, "budget": {"tokens": 659}, "warmup": 0})
    assert (train.tokens_per_step, train.steps, train.budget) == (60, 10, Budget(tokens=659))
    assert parse_train({"budget": {"flops": 1e15}}).steps == 0, "not known before the model is counted"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"budget": {"tokens": 100}}, "train.budget.tokens: 100 is less than one optimizer step, of 4096 tokens"),
        ({"budget": {"tokens": 1e25}}, "train.budget.tokens: 1e+25 is more than 1.09951e+12 steps, of 4096 tokens"),
        ({"budget": {"tokens": 0}}, "train.budget.tokens: 0.0 is not above 0"),
        ({"budget": {"token": 1}}, "train.budget: unknown key 'token'; did you mean 'tokens'?"),
        ({"budget": {}}, "train.budget: names nothing; it takes one of tokens, flops and seconds"),
        ({"budget": {"flops": 1, "seconds": 2}}, "names flops and seconds; it takes one of tokens, flops and seconds"),
        ({"budget": 1e9}, "train.budget: 1000000000.0 is not a mapping of settings"),
        ({"budget": {"tokens": 1e6}, "steps": 3}, "train.budget: train.steps is given too, and both say how many"),
        ({"budget": {"tokens": 1e5}}, "train.warmup: 100 is more than the 24 steps of train.budget; or set"),
        ({"budget": {"tokens": 1e6}, "checkpoint_at": [5, 999]}, "train.checkpoint_at[1]: 999 is past the last step"),
        ({"steps": 9, "checkpoint_at": [10]}, "train.checkpoint_at[0]: 10 is past the last step, 9"),
        ({"checkpoint_at": 5}, "train.checkpoint_at: 5 is not a list"),
        ({"warmup": 3, "warmup_fraction": 0.1}, "train.warmup_fraction: train.warmup is given too"),
        ({"start_from": {"step": 3}}, "train.start_from: needs 'checkpoint': a text"),
        ({"start_from": "runs/a"}, "train.start_from: 'runs/a' is not a mapping of settings"),
        ({"start_from": {"checkpoint": "a", "load": "all"}}, "train.start_from.load: 'all' is not one of its values"),
    ],
)  # fmt: skip
def test_what_is_no_length_and_no_start(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_train(value)
    assert message in str(caught.value)


def test_what_is_set_last_counts(write: Write, tiny_file: Any, tiny: Tiny) -> None:
    assert tiny().train.steps == 12
    budgeted = tiny("train.budget={tokens: 640}")
    assert (budgeted.train.steps, budgeted.train.budget) == (10, Budget(tokens=640))
    assert tiny("train.budget.tokens=640") == budgeted
    assert tiny("train.budget.tokens=640", "train.steps=7").train == tiny("train.steps=7").train
    assert tiny("train.steps=7", "train.budget.tokens=640").train.steps == 10
    assert tiny("train.budget.seconds=9", "train.budget.tokens=640").train == budgeted.train
    assert tiny("train.budget=null").train == tiny().train
    file = write({"base": "tiny.yaml", "train": {"budget": {"flops": 1e9}, "warmup_fraction": 0.5}}, "below.yaml")
    assert config.load(file).train.budget == Budget(flops=1e9)
    top = write({"base": "below.yaml", "train": {"budget": {"tokens": 640}}}, "top.yaml")
    train = config.load(top).train
    assert (train.steps, train.budget, train.warmup_steps) == (10, Budget(tokens=640), 5)
    assert config.load(top, ["train.warmup=3"]).train.warmup_steps == 3
    assert config.load(top, ["train.batch_size=4"]).train.steps == 5
    last = write({"base": "top.yaml", "train": {"steps": 3}}, "last.yaml")
    assert (config.load(last).train.steps, config.load(last).train.budget) == (3, None)
    both = write({"base": "tiny.yaml", "train": {"steps": 3, "budget": {"tokens": 640}}}, "both.yaml")
    with pytest.raises(ConfigError, match=r"both\.yaml: train\.budget: train\.steps is given too"):
        config.load(both)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.budget.tokens=640", "train.warmup_fraction=0.25"],
        ["train.budget.flops=1e12"],
        ["train.budget.seconds=5", "train.checkpoint_at=[3]", "train.schedule=wsd", "train.decay_fraction=0.5"],
        ["train.start_from={checkpoint: runs/a, step: 3, load: everything}"],
    ],
)
def test_the_written_settings_read_back(overrides: list[str], tiny: Tiny, write: Write) -> None:
    if "seconds" in overrides[0]:
        overrides = [*overrides[:1], *overrides[2:]]
    experiment = tiny(*overrides)
    again = config.load(write(experiment.to_yaml(), "again.yaml"))
    assert again.train == experiment.train
    assert again.resolved == experiment.resolved


def test_what_is_not_used_is_not_written(tiny: Tiny) -> None:
    written = yaml.safe_load(tiny().to_yaml())["train"]
    assert not {"budget", "warmup_fraction", "start_from", "checkpoint_at", "decay_fraction"} & written.keys()
    assert "decay_fraction" in tiny("train.schedule=wsd").resolved["train"]


def test_knobs_below_a_setting_can_be_varied(tiny_file: Any) -> None:
    raw = config.read(tiny_file)
    knob = raw.knob("train.budget.tokens")
    assert knob is not None
    assert knob.type_name == "a number above 0 or null"
    assert raw.knob("train.start_from.checkpoint").type_name == "a text"  # type: ignore[union-attr]
    assert raw.knob("train.budget.token") is raw.knob("train.lr.tokens") is raw.knob("train") is None


def test_a_resolved_budget_leaves_its_steps() -> None:
    assert TrainConfig(budget=Budget(flops=1)).with_steps(200).to_plain() == TrainConfig(steps=200).to_plain()
