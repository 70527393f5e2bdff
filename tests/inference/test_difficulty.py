"""Accuracy by difficulty is that of a plain loop over samples of the harder task."""

from __future__ import annotations

import pytest
import torch
from conftest import Tiny

from archlab import ArchlabError, SuiteRequest
from archlab.config import registry
from archlab.config.experiment import Experiment, load
from archlab.inference.suite import find_suite
from archlab.modeling.build import build
from archlab.ops.linear_cross_entropy import IGNORED

CONTEXT = "train.context=16"
RECALL = "task={type: recall, vocab_size: 40, num_pairs: 3, eval_size: 40}"
COPYING = "task={type: selective_copying, num_tokens: 3, eval_size: 24}"


def untold(what: str, done: int, total: int | None) -> None:
    assert total is not None
    assert done < total


def of_task(tiny: Tiny, task: str, vocab_size: int) -> Experiment:
    return tiny(task, f"model.vocab_size={vocab_size}", CONTEXT)


@pytest.mark.slow
def test_it_is_a_plain_loop_over_harder_samples(tiny: Tiny) -> None:
    experiment = of_task(tiny, RECALL, 40)
    model = build(experiment.model).eval()
    found = find_suite("recall")(model, experiment, SuiteRequest(max_context=64), untold)
    accuracy, samples, by_context, _ = found.curves
    assert [x for x, _ in accuracy.points] == [3, 4, 8, 16]
    assert [x for x, _ in by_context.points] == [16, 64]
    for (pairs, each), (_, whole), context in zip(accuracy.points, samples.points, (16, 16, 32, 64), strict=True):
        task = tiny(f"task={{type: recall, vocab_size: 40, num_pairs: {pairs:.0f}, eval_size: 40}}").task.factory()()
        inputs, targets = (torch.cat(part) for part in zip(*task.eval_batches("test", 8, context), strict=True))
        right = model(inputs)[0].argmax(-1) == targets
        asked = targets != IGNORED
        assert each.value == pytest.approx(right[asked].float().mean().item())
        assert whole.value == pytest.approx((right | ~asked).all(-1).float().mean().item())
        assert (each.units, each.count, whole.count) == (40, 40 * pairs, 40)
    assert found.tokens == 40 * (16 + 16 + 32 + 64 + 16 + 64)
    assert "Longer than the 16 tokens of training: num_pairs 8 in 32, num_pairs 16 in 64" in found.notes
    assert any(note.startswith("no num_pairs of 32: ") for note in found.notes)


@pytest.mark.slow
def test_fewer_items_are_the_first_ones(tiny: Tiny) -> None:
    experiment = of_task(tiny, COPYING, 16)
    found = find_suite("mad")(build(experiment.model), experiment, SuiteRequest(limit=7, max_context=256), untold)
    assert {each.units for curve in found.curves for _, each in curve.points} == {7}
    assert found.curves[0].points[0][0] == 3


def test_a_context_that_the_model_does_not_keep_is_reported(tiny: Tiny) -> None:
    layer = {"mixer": {"type": "attention", "num_heads": 2, "attention": {"type": "softmax", "window_size": 20}}}
    experiment = tiny(RECALL, "model.vocab_size=40", CONTEXT, f"model.layers=[{layer}]")
    found = find_suite("recall")(build(experiment.model), experiment, SuiteRequest(), untold)
    assert [x for x, _ in found.curves[2].points] == [16]
    assert any("no context of 64: " in note and "window_size" in note for note in found.notes)


@pytest.mark.parametrize(
    ("suite", "task", "request_", "problem"),
    [
        (
            "mad",
            RECALL,
            SuiteRequest(),
            "the suite mad is of models trained on compression, .*; this one's .* 'recall'",
        ),
        ("recall", RECALL, SuiteRequest(tasks=("piqa",)), "the suite recall takes no --tasks"),
        ("recall", RECALL, SuiteRequest(max_context=8), "no context of 64: .* above --max-context 8"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    suite: str, task: str, request_: SuiteRequest, problem: str, tiny: Tiny
) -> None:
    experiment = of_task(tiny, task, 40)
    with pytest.raises(ArchlabError, match=problem):
        find_suite(suite)(build(experiment.model), experiment, request_, untold)


@pytest.mark.parametrize("name", [name for name in registry.names("task") if name.endswith(("recall", "copying"))])
def test_the_values_of_a_difficulty_are_of_its_knob(name: str) -> None:
    component = registry.find("task", name)
    assert component.cls.benchmark in ("recall", "mad")
    assert set(component.cls.difficulties) - {"context"} <= set(component.knobs)


@pytest.mark.slow
def test_a_shipped_experiment_of_mad_is_measured_at_the_lengths_that_it_reads() -> None:
    experiment = load("compression_tiny", ["task.eval_size=16"])
    found = find_suite("mad")(build(experiment.model), experiment, SuiteRequest(), untold)
    assert [x for x, _ in found.curves[0].points] == [12, 32, 64, 128, 256]
