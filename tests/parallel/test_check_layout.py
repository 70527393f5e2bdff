"""Which layouts fit an experiment, what a rank of one computes, and the memory that it takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Tiny
from torch import Tensor

from archlab import ConfigError, register
from archlab.config.experiment import load
from archlab.config.parallel import Layout
from archlab.data.task import Task
from archlab.modeling.build import count_parameters, validate
from archlab.modeling.cost import estimate_cost
from archlab.parallel.check_layout import divide_work, memory_of_rank, require_fit
from archlab.parallel.tensor import build_part

GROWN = "train.start_from={checkpoint: runs/a, match: grow}"
CLASSES = ["task=listops", "model.head={type: classifier, num_outputs: 10}"]
REAL_VALUES = [
    *("task=labels_of_values", "model.vocab_size=null", "model.embedding=frames"),
    "model.head={type: language_model, num_outputs: 4}",
]


class LabelsOfValues(Task):
    """A label for each of many values."""

    num_outputs = 4

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch_size, context), torch.zeros(batch_size, context, dtype=torch.int64)

    def eval_batches(self, split: str, batch_size: int, context: int, max_tokens: int | None = None) -> Any:
        yield self.batch(split, 0, batch_size, context, 0)


@pytest.mark.parametrize(
    ("overrides", "layout", "message"),
    [
        (
            [GROWN],
            Layout(tensor=2),
            "train.start_from.match: 'grow' reads whole weights, which parallel.tensor divides",
        ),
        (["train.compile=model"], Layout(shard=2), "train.compile: 'model' does not go with parallel.shard, which"),
        (["train.compile=model"], Layout(tensor=2), "train.compile: 'model' does not go with parallel.tensor, whose"),
        (
            ["train.budget={seconds: 9}"],
            Layout(2),
            "train.budget: seconds are measured in one process; with",
        ),
        (["train.documents=separate"], Layout(chunk=2), "2 cuts the context of a stream, but train.documents has rows"),
        ([], Layout(5), "parallel: replicate 5 * shard 1 does not divide the 8 sequences of an update"),
        ([], Layout(chunk=3), "parallel.chunk: 3 does not divide train.context, 256"),
    ],
)
def test_a_layout_that_does_not_fit_a_language_model(overrides: list[str], layout: Layout, message: str) -> None:
    sizes = ["train.batch_size=8", "train.accumulate=1", "train.context=256"]
    experiment = load("llama2_tiny", [*sizes, *overrides])
    with pytest.raises(ConfigError) as error:
        require_fit(experiment, validate(experiment), layout)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "overrides", "problem"),
    [
        ("deit_tiny", [], "the model sees later tokens, which another rank has"),
        ("llama2_tiny", CLASSES, "the model answers once a sample, and not at every step"),
        ("llama2_tiny", REAL_VALUES, "the inputs of the task 'labels_of_values' are no tokens"),
    ],
)
def test_a_context_that_is_no_stream_of_tokens_is_not_cut(name: str, overrides: list[str], problem: str) -> None:
    register("task", "labels_of_values")(LabelsOfValues)
    experiment = load(name, overrides)
    with pytest.raises(ConfigError) as error:
        require_fit(experiment, validate(experiment), Layout(chunk=2))
    assert str(error.value) == f"parallel.chunk: 2 cuts the context of a stream, but {problem}"


@pytest.mark.slow
def test_a_rank_s_memory_is_that_of_its_part() -> None:
    sizes = ["train.batch_size=8", "train.accumulate=1", "train.context=32", "model.layers[0].repeat=1"]
    experiment = load("llama2_tiny", sizes)
    cost = estimate_cost(experiment)
    alone, fixed = memory_of_rank(experiment, cost, Layout())
    assert memory_of_rank(experiment, cost, Layout(shard=2))[1] == fixed // 2
    peak, of_tensor = memory_of_rank(experiment, cost, Layout(tensor=2))
    share = count_parameters(build_part(experiment.model, 2)) / count_parameters(validate(experiment))
    assert of_tensor / fixed == pytest.approx(share, rel=1e-3)
    assert alone / 2 < peak < alone


def test_the_pieces_of_a_context_are_those_of_the_whole(tiny: Tiny) -> None:
    experiment = tiny("train.accumulate=2")
    task = experiment.task.factory()()

    def batches(chunk: int, index: int) -> list[Any]:
        ranks = SimpleNamespace(layout=Layout(chunk=chunk), count=chunk, data_index=0, chunk_index=index)
        return divide_work(experiment.train, ranks).batches(task, 3, 1)  # type: ignore[arg-type]

    ((inputs, targets),) = batches(1, 0)
    pieces = [batches(4, index)[0] for index in range(4)]
    assert torch.equal(torch.cat([piece[0] for piece in pieces], 1), inputs)
    assert torch.equal(torch.cat([piece[1] for piece in pieces], 1), targets)
