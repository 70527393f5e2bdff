from __future__ import annotations

import pytest

from archlab.config.train_config import TrainConfig
from archlab.training.lr_schedule import lr_multiplier


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_rate_rises_then_falls(schedule: str) -> None:
    train = TrainConfig(steps=100, warmup=10, schedule=schedule, end_lr_ratio=0.1)
    rates = [lr_multiplier(step, train) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[5] == pytest.approx(0.5, abs=1e-3)
    assert rates[10] == pytest.approx(1)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(1 if schedule == "constant" else 0.1)
    assert lr_multiplier(1000, train) == pytest.approx(rates[100])


def test_the_middle_of_a_schedule() -> None:
    assert lr_multiplier(50, TrainConfig(steps=100, warmup=0, schedule="cosine", end_lr_ratio=0)) == pytest.approx(0.5)
    assert lr_multiplier(25, TrainConfig(steps=100, warmup=0, schedule="linear", end_lr_ratio=0.2)) == pytest.approx(
        0.8
    )
    assert lr_multiplier(0, TrainConfig(warmup=0)) == 1
    assert lr_multiplier(7, TrainConfig(steps=5, warmup=10)) == pytest.approx(0.7, abs=1e-3)
