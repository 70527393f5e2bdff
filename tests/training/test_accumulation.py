"""An update is the same however its sequences are cut into micro-batches, also where few of them ask for a target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import Tiny
from torch import Tensor

from archlab import TrainingError
from archlab.config.experiment import Experiment
from archlab.data.task import IGNORED
from archlab.modeling import loss
from archlab.modeling.state import auxiliary_loss
from archlab.ops import linear_cross_entropy
from archlab.training.step import TrainStep

SEQUENCES, CONTEXT, OUTPUTS = 8, 12, 256
CUTS = [(8, 1), (4, 2), (2, 4), (1, 8)]  # batch_size, accumulate
MIXER = "model.layers[0].mixer={type: attention, num_heads: 2, attention: %s}"
PLAIN = MIXER % "softmax"
COMPRESSIVE = MIXER % "{type: compressive, window_size: 4, memory_size: 4, compressed_size: 4}"  # has a loss of its own
HEADS = {
    "language_model": (PLAIN,),
    "with an auxiliary loss": (COMPRESSIVE,),
    "multi_token": (
        PLAIN,
        "model.head={type: multi_token, depth: 2, layer: {type: block, mixer: {type: attention, num_heads: 2}}}",
    ),
    "reconstruction": (PLAIN, "model.head=reconstruction"),
    "classifier": (PLAIN, "model.head={type: classifier, num_outputs: 256}"),
}


class Masked:
    """Sequences by number, most of whose targets are not asked for: none of the second quarter, one of the third."""

    def __init__(self, per_sample: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randint(OUTPUTS, (SEQUENCES, CONTEXT), generator=generator)
        self.targets = torch.randint(OUTPUTS, (SEQUENCES, CONTEXT), generator=generator)
        self.targets[2:4], self.targets[4:6], self.targets[6, 5:] = IGNORED, IGNORED, IGNORED
        self.targets[5, 3] = 7
        if per_sample:
            self.targets = self.targets[:, 3]

    def batch(self, split: str, step: int, batch_size: int, context: int, seed: int) -> tuple[Tensor, Tensor]:
        rows = slice(step * batch_size, (step + 1) * batch_size)
        return self.inputs[rows], self.targets[rows]


def update(experiment: Experiment, task: Any, cut: tuple[int, int]) -> tuple[float, float, list[Tensor | None]]:
    """Return loss, norm and clipped gradients of an update in float64."""
    batch_size, accumulate = cut
    train = replace(experiment.train, batch_size=batch_size, accumulate=accumulate, context=CONTEXT)
    step = TrainStep(replace(experiment, train=train))
    step.task = task
    step.model.double()
    gradients: list[Tensor | None] = []
    step.optimizer.step = lambda: gradients.extend(  # type: ignore[method-assign,assignment]
        None if p.grad is None else p.grad.clone() for p in step.model.parameters()
    )
    record = step()
    return record["loss"], record["grad_norm"], gradients


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("chunked", [False, True])
def test_two_times_four_is_eight(head: str, chunked: bool, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    if chunked:
        monkeypatch.setattr(loss, "MAX_CHUNK_LOGITS", 3 * OUTPUTS)
        monkeypatch.setattr(linear_cross_entropy, "MAX_CHUNK_LOGITS", 3 * OUTPUTS)
        monkeypatch.setattr(linear_cross_entropy, "MIN_CHUNK_TOKENS", 1)
    experiment = tiny("model.layers[0].dropout=0", "train.clip=0.5", *HEADS[head])
    task = Masked(per_sample=head == "classifier")
    whole, *parts = (update(experiment, task, cut) for cut in CUTS)
    assert all(gradient is not None and gradient.any() for gradient in whole[2])
    for part in parts:
        torch.testing.assert_close(part, whole, rtol=1e-10, atol=1e-14)


def test_the_loss_is_a_mean_over_the_targets(tiny: Tiny) -> None:
    experiment, task = tiny("model.layers[0].dropout=0"), Masked(per_sample=False)
    step = TrainStep(replace(experiment, train=replace(experiment.train, context=CONTEXT)))
    with torch.no_grad():
        log_probabilities = step.model.double()(task.inputs)[0].log_softmax(-1)
    asked = [(b, t, int(y)) for b, row in enumerate(task.targets) for t, y in enumerate(row) if y != IGNORED]
    expected = -sum(float(log_probabilities[index]) for index in asked) / len(asked)
    assert update(experiment, task, (2, 4))[0] == pytest.approx(expected, rel=1e-12)


def test_layers_losses_are_means_over_the_tokens_asked_for_or_not(tiny: Tiny) -> None:
    experiment, task = tiny("model.layers[0].dropout=0", COMPRESSIVE, "train.clip=null"), Masked(per_sample=False)
    step = TrainStep(replace(experiment, train=replace(experiment.train, context=CONTEXT)))
    _, state = step.model.double()(task.inputs)
    names = [name for name, _ in step.model.named_parameters()]
    expected = torch.autograd.grad(
        auxiliary_loss(state).sum() / (SEQUENCES * CONTEXT), list(step.model.parameters()), allow_unused=True
    )
    found = dict(zip(names, update(experiment, task, (2, 4))[2], strict=True))
    trained = {name: gradient for name, gradient in zip(names, expected, strict=True) if gradient is not None}
    assert trained
    assert all("compression" in name for name in trained), "the task's loss does not reach these"
    for name, gradient in trained.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-14)


def test_an_update_that_asks_for_nothing_is_refused(tiny: Tiny) -> None:
    task = Masked(per_sample=False)
    task.targets[:] = IGNORED
    with pytest.raises(TrainingError, match="step 1: no target is asked for in its 4 batches"):
        update(tiny(), task, (2, 4))


def test_the_device_is_waited_for_once_in_an_update(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, reads = tiny("model.layers[0].dropout=0"), []
    number = Tensor.__float__
    monkeypatch.setattr(Tensor, "__float__", lambda self: reads.append(self) or number(self))
    update(experiment, Masked(per_sample=False), (1, 8))
    assert len(reads) == 2, "the loss and the gradients' norm"
