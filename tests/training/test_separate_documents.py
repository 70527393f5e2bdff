"""Runs on documents apart: an update is that of each document alone, and what cannot be had is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Tiny
from run_helpers import write_documents
from torch.nn import functional as F

import archlab
from archlab import ConfigError
from archlab.config.train_config import parse_train
from archlab.storage.trained_model import load_trained
from archlab.training.step import TrainStep, prepare_experiment

SAME = ["model.layers[0].dropout=0", "train.documents=separate", "train.batch_size=3", "train.clip=null"]


@pytest.fixture
def texts(tmp_path: Path) -> str:
    """A task of short documents."""
    return write_documents(tmp_path / "texts")


@pytest.mark.slow
def test_an_update_is_that_of_each_document_alone(tiny: Tiny, texts: str) -> None:
    experiment = prepare_experiment(tiny(texts, *SAME, "train.compile=auto"))
    assert experiment.train.compile == "off", "rows of many lengths would each be compiled"
    step = TrainStep(experiment)
    alone = TrainStep(experiment).model.double()
    step.model.double()
    task, train = step.task, experiment.train
    documents = task.documents("train", 0, 3, batch_size=3, context=train.context, seed=train.seed)
    assert len(documents) > 4
    losses = [F.cross_entropy(alone(inputs[None])[0][0], targets, reduction="sum") for inputs, targets in documents]
    loss = sum(losses[1:], losses[0]) / sum(len(targets) for _, targets in documents)
    gradients = torch.autograd.grad(loss, list(alone.parameters()))
    record = step()
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert record["grad_norm"] == pytest.approx(torch.nn.utils.get_total_norm(gradients).item(), rel=1e-9)


@pytest.mark.slow
def test_a_run_is_evaluated_on_separate_documents(tiny_file: Path, texts: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = archlab.train(tiny_file, [texts, *SAME, "train.steps=2", "train.eval_tokens=null"], out=out)
    experiment, model = load_trained(out)
    task, nats, count = experiment.task.factory()(), 0.0, 0
    for documents in task.eval_documents("validation", 3, experiment.train.context):
        for inputs, targets in documents:
            nats += F.cross_entropy(model(inputs[None])[0][0], targets, reduction="sum").item()
            count += len(targets)
    assert result.metrics["val_loss"] == pytest.approx(nats / count, rel=1e-5)
    assert archlab.evaluate(out, split="validation").metrics["loss"] == pytest.approx(nats / count, rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["task={type: recall, vocab_size: 64}"], "the task 'recall' has no documents to separate"),
        (
            [
                "model.layers[0].mixer={type: attention, num_heads: 2, "
                "attention: {type: compressive, window_size: 4, memory_size: 4, compressed_size: 4}}"
            ],
            "blocks.0.mixer.attention sums a loss of its own",
        ),
    ],
)
def test_what_padding_would_change_is_refused(overrides: list[str], problem: str, tiny: Tiny, texts: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        prepare_experiment(tiny(texts, *SAME, *overrides))


def test_experiments_of_before_are_the_same_data() -> None:
    assert "documents" not in parse_train({}).to_plain()
    assert parse_train(parse_train({"documents": "separate"}).to_plain()).documents == "separate"
