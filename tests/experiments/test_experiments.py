"""Every shipped experiment builds and runs: small ones train, large ones are run through without memory."""

from pathlib import Path

import pytest
import torch

from archlab.config import experiment as config
from archlab.config.yaml_files import shipped_files
from archlab.modeling.build import count_parameters, validate
from archlab.modeling.repeated_blocks import skip_repeated_blocks
from archlab.training.trainer import train

TINY = [name for name in shipped_files() if name.endswith("_tiny")]
SHORT = [
    "train.steps=2",
    "train.warmup=1",
    "train.batch_size=2",
    "train.accumulate=1",
    "train.eval_every=0",
    "train.eval_tokens=1",
    "train.checkpoint_every=0",
    "train.compile=off",
    "train.precision=float32",
    "train.tensorboard=false",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_small_one_trains(name: str, tmp_path: Path) -> None:
    shorter = ["train.context=128"] * (config.load(name).train.context == 512)  # of a text, which has no length
    result = train(config.load(name, SHORT + shorter), tmp_path / "run")
    assert result.metrics["step"] == 2
    assert result.metrics["val_loss"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(shipped_files()) - set(TINY)))
def test_a_large_one_runs_without_memory(name: str) -> None:
    experiment = config.load(name)
    model = validate(experiment)
    context = 64 if experiment.model.knobs.get("vocab_size") is not None else experiment.train.context
    inputs = experiment.task.factory()().example_inputs(1, context, "meta")
    with torch.no_grad(), skip_repeated_blocks(model):  # two of a run of identical ones run: shapes say no more
        logits, _ = model(inputs)
    assert logits.is_meta
    assert logits.shape[0] == 1


@pytest.mark.parametrize("name", TINY)
def test_a_small_one_is_small(name: str) -> None:
    assert count_parameters(validate(config.load(name))) < 1.6e6
