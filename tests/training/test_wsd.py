from __future__ import annotations

from pathlib import Path

import pytest

from archlab import ConfigError
from archlab.config.start_from import StartFrom
from archlab.config.train_config import TrainConfig, parse_train
from archlab.training.lr_schedule import lr_multiplier
from archlab.training.wsd import branch_points

WSD = TrainConfig(steps=1000, warmup=50, schedule="wsd", end_lr_ratio=0, decay_fraction=0.2)


def test_stable_then_linear_to_the_end() -> None:
    rates = [lr_multiplier(step, WSD) for step in range(1001)]
    assert rates[25] == pytest.approx(0.5, abs=1e-3)
    assert set(rates[50:801]) == {1}
    assert rates[900] == pytest.approx(0.5)
    assert rates[800:] == sorted(rates[800:], reverse=True)
    assert rates[1000] == 0
    late = TrainConfig(steps=10, warmup=9, schedule="wsd", end_lr_ratio=0.1)
    assert [lr_multiplier(step, late) for step in (9, 10)] == [1, pytest.approx(0.1)]


def test_branches_follow_the_trunk_to_their_decay(tmp_path: Path) -> None:
    points = branch_points(WSD, [0.5, 0.25], tmp_path)
    assert points.checkpoint_at == (200, 400)
    for branch, steps in zip(points.branches, (250, 500), strict=True):
        assert (branch.steps, branch.start) == (steps, round(steps * 0.8))
        values = {path.removeprefix("train."): value for path, value in branch.overrides.items()}
        train = parse_train({**WSD.to_plain(), "checkpoint_at": [400], **values})
        assert train.start_from == StartFrom(str(tmp_path), branch.start, "everything")
        assert all(lr_multiplier(step, train) == lr_multiplier(step, WSD) for step in range(branch.start + 1))
        assert lr_multiplier(steps, train) == 0


def test_a_warm_up_by_a_fraction_is_the_trunks(tmp_path: Path) -> None:
    train = parse_train({"steps": 1000, "schedule": "wsd", "warmup_fraction": 0.1})
    assert branch_points(train, [0.5], tmp_path).branches[0].overrides["train.warmup"] == 100


@pytest.mark.parametrize(
    ("changes", "fraction", "message"),
    [
        ({"schedule": "cosine"}, 0.5, "train.schedule: 'cosine' has no decay that branches off; take 'wsd'"),
        ({}, 1.0, "train.steps: a branch of 1 of the trunk is not between 0 and 1"),
        ({}, 0.05, "train.steps: the decay of a branch of 50 steps would begin at step 40, with a warm-up of 50"),
        ({"decay_fraction": 0.0}, 0.5, "train.steps: the decay of a branch of 500 steps would begin at step 500"),
    ],
)
def test_no_branches(changes: dict[str, object], fraction: float, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        branch_points(parse_train({**WSD.to_plain(), **changes}), [fraction], "trunk")
    assert message in str(caught.value)
