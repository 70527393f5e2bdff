"""Synthetic tasks: the same samples for the same arguments, and none in two splits."""

from collections import Counter
from typing import Any

import pytest
import torch

from archlab import ArchlabError
from archlab.components.task._synthetic import SyntheticTask
from archlab.components.task.listops import ListOps
from archlab.config.registry import find

SPLITS = ("train", "validation", "test")
SIZES = {"eval_size": 35}
SHORT_LISTS = {"max_depth": 4, "max_args": 4, "min_length": 4, "max_length": 25}
# Each with a context, and knobs that leave few different samples.
TASKS: dict[str, tuple[int, dict[str, Any], int, dict[str, Any]]] = {
    "recall": (32, {"vocab_size": 32, "num_pairs": 4}, 4, {"vocab_size": 8, "num_pairs": 1}),
    "in_context_recall": (33, {}, 4, {"vocab_size": 8}),
    "noisy_recall": (32, {}, 4, {"vocab_size": 16, "noise_vocab_size": 3}),
    "fuzzy_recall": (40, {}, 7, {"vocab_size": 7, "key_tokens": 2, "value_tokens": 2}),
    "selective_copying": (33, {"num_tokens": 4}, 6, {"vocab_size": 6, "num_tokens": 2}),
    "memorization": (16, {}, 4, {"vocab_size": 9}),
    "compression": (16, {}, 4, {"vocab_size": 5}),
    "listops": (24, SHORT_LISTS, 6, {"max_depth": 2, "max_args": 3, "min_length": 2, "max_length": 6}),
}
NAMES = pytest.mark.parametrize("name", TASKS)


def make(name: str, **knobs: Any) -> SyntheticTask:
    task = find("task", name).cls(**(SIZES | TASKS[name][1] | knobs))
    assert isinstance(task, SyntheticTask)
    return task


def rows(inputs: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in inputs.tolist()]


@NAMES
def test_a_batch_depends_on_its_arguments_alone(name: str) -> None:
    task, context = make(name), TASKS[name][0]
    inputs, targets = task.batch("train", 7, 9, context, 3)
    task.batch("train", 2, 5, context, 1)
    again = make(name).batch("train", 7, 9, context, 3)
    assert torch.equal(again[0], inputs)
    assert torch.equal(again[1], targets)
    assert (inputs.dtype, targets.dtype, inputs.shape) == (torch.int64, torch.int64, (9, context))
    assert 0 <= inputs.min() <= inputs.max() < task.vocab_size
    assert inputs.shape == task.example_inputs(9, context, "cpu").shape
    for other in (task.batch("train", 7, 9, context, 4), make(name, data_seed=2).batch("train", 7, 9, context, 3)):
        assert not torch.equal(other[0], inputs)


@NAMES
@pytest.mark.parametrize("train_size", [None, 40])
def test_no_sample_is_in_two_splits_even_where_there_are_few(name: str, train_size: int | None) -> None:
    _, _, context, few = TASKS[name]
    task = make(name, train_size=train_size, **few)
    seen = [{row for step in range(8) for row in rows(task.batch(split, step, 32, context, 0)[0])} for split in SPLITS]
    assert all(seen)
    assert not any(one & other for one, other in zip(seen, [*seen[1:], seen[0]], strict=True))


@NAMES
def test_an_epoch_visits_every_sample_once(name: str) -> None:
    task, context = make(name, train_size=40), TASKS[name][0]
    epochs = [
        [row for step in range(5) for row in rows(task.batch("train", 5 * epoch + step, 8, context, 1)[0])]
        for epoch in (0, 1, 2)
    ]
    assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(rows(next(task.eval_batches("train", 40, context))[0]))
    assert len({tuple(epoch) for epoch in epochs}) > 1


@NAMES
def test_endless_training_draws_new_samples(name: str) -> None:
    task, context = make(name, train_size=None), TASKS[name][0]
    seen = Counter(row for step in range(10) for row in rows(task.batch("train", step, 20, context, 0)[0]))
    assert len(seen) > 150
    whole = task.batch("train", 0, 60, context, 0)[0]
    assert torch.equal(task.batch("train", 2, 20, context, 0)[0], whole[40:])
    assert task.describe()["samples"] == {"train": "endless", "validation": 35, "test": 35}


@NAMES
@pytest.mark.parametrize("batch_size", [1, 8, 100])
@pytest.mark.parametrize("max_samples", [None, 3])
def test_evaluation_sees_the_same_samples_whatever_the_batch(
    name: str, batch_size: int, max_samples: int | None
) -> None:
    context = TASKS[name][0]
    limit = None if max_samples is None else context * max_samples
    batches = list(make(name).eval_batches("validation", batch_size, context, limit))
    assert len({inputs.shape for inputs, _ in batches}) == 1
    inputs, targets = (torch.cat(part) for part in zip(*batches, strict=True))
    there = (targets != -100).view(len(targets), -1).any(1)
    whole = next(make(name).eval_batches("validation", 35, context))
    count = max_samples or 35
    assert torch.equal(inputs[there], whole[0][:count])
    assert torch.equal(targets[there], whole[1][:count])
    assert make(name).num_eval_targets("validation", context, limit) == (targets != -100).sum()


@NAMES
def test_right_answers_have_full_accuracy(name: str) -> None:
    task = make(name)
    _, targets = next(task.eval_batches("test", 35, TASKS[name][0]))
    right = torch.nn.functional.one_hot(targets.clamp(min=0), task.num_outputs).float() * 50
    measured = {
        metric: float(total) / int(count) for metric, (total, count) in task.compute_metrics(right, targets).items()
    }
    assert sorted(measured) == sorted(task.metrics)
    assert measured.pop("loss") < 1e-6
    assert set(measured.values()) == {1.0}


def test_a_sample_is_right_where_all_of_it_is() -> None:
    task = make("recall")
    targets = torch.tensor([[-100, 3, 4], [5, -100, 6], [-100, -100, -100]])
    answers = torch.tensor([[0, 3, 4], [5, 0, 7], [1, 1, 1]])
    measured = task.compute_metrics(torch.nn.functional.one_hot(answers, 32).float(), targets)
    assert {name: (int(total), int(count)) for name, (total, count) in measured.items() if name != "loss"} == {
        "accuracy": (3, 4),
        "sample_accuracy": (1, 2),
    }


def test_too_few_samples_for_all_splits_are_refused() -> None:
    task = find("task", "compression").cls(vocab_size=2)
    with pytest.raises(ArchlabError, match=r"Compression: too few different samples for a [a-z]+ split of their own"):
        task.check(2)


def test_padding_does_not_move_a_sample_to_another_split() -> None:
    short, long = (
        {row.strip() for split in SPLITS[:1] for row in _expressions(split, context)} for context in (24, 31)
    )
    held_out = {row.strip() for split in SPLITS[1:] for row in _expressions(split, 31)}
    assert not (short | long) & held_out


def _expressions(split: str, context: int) -> list[str]:
    task = ListOps(**SHORT_LISTS, eval_size=64)
    inputs, _ = task.batch(split, 0, 200, context, 0)
    return ["".join(chr(32 + token) for token in row if token) for row in inputs.tolist()]
