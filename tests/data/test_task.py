"""A task inherits what it leaves out, and every registered one documents its knobs."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from archlab import ArchlabError, Task
from archlab.config.registry import find, names


class Parity(Task):
    """The least that a task defines."""

    vocab_size = 2

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        tokens = torch.zeros(batch_size, context, dtype=torch.int64)
        return tokens, tokens

    def eval_batches(
        self, split: str, batch_size: int, context: int, max_tokens: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.batch(split, 0, batch_size, context, 0)


def test_defaults_are_those_of_a_task_without_text() -> None:
    task = Parity()
    assert task.num_outputs == 2
    assert (task.per_sample, task.predicts_next, task.metrics_are_per_token) == (False, False, True)
    assert (task.text("validation"), task.describe(), task.check(8)) == (b"", {}, None)
    assert task.example_inputs(2, 3, "cpu").dtype == torch.int64
    for call in (lambda: task.encode("a"), lambda: list(task.decode_stream([1])), lambda: task.bytes_per_token("test")):
        with pytest.raises(ArchlabError, match="this task has no text"):
            call()


def test_batches_have_no_default() -> None:
    with pytest.raises(TypeError, match=r"batch.*eval_batches"):
        type("Empty", (Task,), {})()


def test_metrics_are_sums_over_the_targets_asked_for() -> None:
    logits = torch.tensor([[[9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]])
    metrics = Parity().compute_metrics(logits, torch.tensor([[0, 1, -100]]))
    (loss, count), (right, _) = metrics["loss"], metrics["accuracy"]
    assert (int(count), int(right)) == (2, 1)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits[0, :2], torch.tensor([0, 1])) * 2)


@pytest.mark.parametrize("name", names("task"))
def test_every_knob_is_documented(name: str) -> None:
    component = find("task", name)
    _, _, section = (component.cls.__doc__ or "").partition("\n    Args:\n")
    documented = re.findall(r"^        (\w+): \S.*[.]$", section, re.MULTILINE)
    assert documented == list(component.knobs)
