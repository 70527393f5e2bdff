import pytest
import torch
from conftest import Tiny

from archlab.inference.evaluate import evaluate
from archlab.modeling import loss
from archlab.modeling.build import build
from archlab.modeling.compile import compile_model
from archlab.modeling.loss import total_loss
from archlab.modeling.step_trace import trace_step
from archlab.ops import linear_cross_entropy


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few scores be too many."""
    for module in (loss, linear_cross_entropy):
        monkeypatch.setattr(module, "MAX_CHUNK_LOGITS", 1000)
    monkeypatch.setattr(linear_cross_entropy, "MIN_CHUNK_TOKENS", 1)


def losses(experiment, policy="off"):
    model = build(experiment.model).double()
    compile_model(model, policy, backend="aot_eager")  # traced whole; what Inductor makes of it is not the question
    inputs, targets = experiment.task.factory()().batch("train", 0, 2, 32, 0)
    loss, state = total_loss(model, inputs, targets)
    loss.backward()
    return loss, [p.grad for p in model.parameters()], state


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_learns_the_same_whole_or_in_parts(tiny: Tiny, request: pytest.FixtureRequest, tied: bool) -> None:
    experiment = tiny(f"model.head={{tied: {str(tied).lower()}}}", "model.layers[0].dropout=0")
    whole = losses(experiment)
    request.getfixturevalue("in_parts")
    parts = losses(experiment)
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_what_is_measured_is_the_same_whole_or_in_parts(tiny: Tiny, request: pytest.FixtureRequest) -> None:
    experiment = tiny()
    model, task = build(experiment.model), experiment.task.factory()()
    whole = evaluate(model, task, "validation", batch_size=2, context=32)
    request.getfixturevalue("in_parts")
    parts = evaluate(model, task, "validation", batch_size=2, context=32)
    assert {k: v for k, v in parts.metrics.items() if k != "tokens_per_s"} == pytest.approx(
        {k: v for k, v in whole.metrics.items() if k != "tokens_per_s"}, rel=1e-5
    )


@pytest.mark.usefixtures("in_parts")
def test_no_part_of_an_evaluation_is_too_large(tiny: Tiny) -> None:
    experiment = tiny()
    model = build(experiment.model)
    inputs, targets = experiment.task.factory()().batch("train", 0, 2, 32, 0)
    sizes = [part.numel() for part, _ in loss.iter_logits(model, inputs, targets, metrics_are_per_token=True)]
    assert len(sizes) > 2
    assert max(sizes) <= 1000
    by_sample = list(loss.iter_logits(model, inputs, targets, metrics_are_per_token=False))
    assert [target.shape for _, target in by_sample] == [(1, 32), (1, 32)]


@pytest.mark.slow
@pytest.mark.usefixtures("in_parts")
def test_a_model_compiled_whole_runs_compiled_in_parts(tiny: Tiny) -> None:
    experiment = tiny("model.layers[0].dropout=0")
    eager = losses(experiment)
    torch._dynamo.utils.counters.clear()
    torch.testing.assert_close(losses(experiment, "model"), eager, rtol=1e-9, atol=1e-12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
def test_the_estimate_knows_that_scores_are_not_kept(tiny: Tiny, request: pytest.FixtureRequest) -> None:
    experiment = tiny()
    whole = trace_step(experiment).activation_bytes
    request.getfixturevalue("in_parts")
    assert trace_step(experiment).activation_bytes < whole
