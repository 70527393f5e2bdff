"""Loss by context is that of a plain loop over windows, however the windows are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Tiny
from torch.nn import functional as F

from archlab import ArchlabError, SuiteRequest
from archlab.config.experiment import Experiment
from archlab.inference.evaluate import evaluate
from archlab.inference.suite import estimate, find_suite
from archlab.inference.suites import context
from archlab.inference.suites.context import loss_by_context
from archlab.modeling.build import build


def untold(what: str, done: int, total: int | None) -> None:
    assert what.startswith("contexts of ")
    assert total is not None
    assert done <= total


@pytest.fixture
def of_text(tmp_path: Path, tiny: Tiny) -> Experiment:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(97, 123, (9000,), generator=generator).tolist()
    (tmp_path / "text").write_bytes(bytes(text))
    return tiny(f"task={{type: text, path: {tmp_path / 'text'}}}", "train.context=16")


def windows_of(experiment: Experiment, length: int, num_targets: int) -> torch.Tensor:
    """Return the losses [N, L] of the first targets of the test split in windows of a length, in a plain loop."""
    model = build(experiment.model).double().eval()
    text = torch.tensor(list(experiment.task.factory()().text("test")))[: num_targets + 1]
    inputs, targets = text[:-1].unflatten(0, (-1, length)), text[1:].unflatten(0, (-1, length))
    rows = zip(inputs, targets, strict=True)
    return torch.stack([F.cross_entropy(model(x[None])[0][0], y, reduction="none") for x, y in rows]).detach()


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [24, 4096])
def test_it_is_a_plain_loop_over_windows(of_text: Experiment, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "CHUNK", chunk)
    model = build(of_text.model)
    found = loss_by_context(model, of_text, SuiteRequest(max_context=130), untold)
    by_length, gains, by_position = found.curves
    num_targets = found.settings["targets"]
    assert [x for x, _ in by_length.points] == [16, 32, 64, 128]
    assert num_targets == (len(of_text.task.factory()().text("test")) - 1) // 128 * 128
    expected = {length: windows_of(of_text, length, num_targets) for length in (16, 32, 64, 128)}
    for length, each in by_length.points:
        assert each.value == pytest.approx(expected[length].mean().item(), rel=1e-6)
        assert (each.units, each.count) == (num_targets // length, num_targets)
    for length, each in gains.points:
        assert each.value == pytest.approx((expected[16].mean() - expected[length].mean()).item(), abs=1e-6)
    first, second = (each for _, each in by_position.points[:2])
    longest = by_position.points[-1][0]
    assert first.value == pytest.approx(expected[longest][:, 0].mean().item(), rel=1e-6)
    assert second.value == pytest.approx(expected[longest][:, 1].mean().item(), rel=1e-6)
    assert sum(each.count for _, each in by_position.points) == num_targets


def test_it_is_what_evaluate_returns_at_each_context(of_text: Experiment) -> None:
    model = build(of_text.model)
    found = loss_by_context(model, of_text, SuiteRequest("validation", max_tokens=200), untold)
    assert found.settings["targets"] == 128
    for length, each in found.curves[0].points:
        options = {"batch_size": 3, "context": int(length), "max_tokens": 128}
        same = evaluate(model, of_text.task.factory()(), "validation", **options)
        assert each.value == pytest.approx(same.metrics["loss"], rel=1e-6)


@pytest.mark.slow
def test_a_text_is_read_whole(of_text: Experiment) -> None:
    text = of_text.task.factory()().text("test").decode()
    of_split = loss_by_context(build(of_text.model), of_text, SuiteRequest(), untold)
    of_file = loss_by_context(build(of_text.model), of_text, SuiteRequest(text=text), untold)
    assert of_file.curves == of_split.curves
    assert of_file.settings["data"] == "the text"


def test_a_gain_is_measured_on_the_same_tokens_where_texts_differ_more() -> None:
    """Easy and hard windows alike gain 0.1: their mean is uncertain, the gain is not."""
    losses = torch.rand(64, generator=torch.Generator().manual_seed(1)).numpy() * 3
    mean, gain = estimate(losses, [1] * 64), estimate(losses - (losses - 0.1), [1] * 64)
    assert mean.high - mean.low > 0.2
    assert gain.low == pytest.approx(0.1)
    assert gain.high == pytest.approx(0.1)


@pytest.mark.slow
def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    """Of 300 samples of 30 units, 90 % of the intervals hold the mean: within three standard errors, 85 to 95 %."""
    generator = torch.Generator().manual_seed(0)
    made = [estimate(torch.randn(30, generator=generator).numpy(), [1] * 30) for _ in range(300)]
    assert 0.84 < sum(each.low < 0 < each.high for each in made) / 300 < 0.95


@pytest.mark.slow
def test_few_units_tell_no_interval_and_very_many_are_resampled_together() -> None:
    assert estimate([1, 2, 3], [1, 1, 1]).low is None
    many = estimate(torch.ones(100_001).numpy(), torch.full((100_001,), 2).numpy())
    assert (many.value, many.low, many.high, many.count) == (0.5, 0.5, 0.5, 200_002)


def test_a_context_that_the_model_does_not_keep_is_reported(tiny: Tiny, of_text: Experiment) -> None:
    layer = {"mixer": {"type": "attention", "num_heads": 2, "attention": {"type": "softmax", "window_size": 50}}}
    path = of_text.task.to_plain()["path"]
    full = tiny(f"task={{type: text, path: {path}}}", "train.context=16", f"model.layers=[{layer}]")
    found = loss_by_context(build(full.model), full, SuiteRequest(), untold)
    assert [x for x, _ in found.curves[0].points] == [16, 32]
    assert found.notes[0].startswith("no context of 64 or more: ")
    assert "window_size" in found.notes[0]


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (SuiteRequest(max_context=3), "--max-context 3: the shortest context is 16"),
        (SuiteRequest(max_tokens=9), "has 9 tokens to predict; the suite context needs 16"),
    ],
)
def test_too_little_is_refused(of_text: Experiment, request_: SuiteRequest, problem: str) -> None:
    with pytest.raises(ArchlabError, match=problem):
        loss_by_context(build(of_text.model), of_text, request_, untold)


def test_a_task_without_a_text_is_refused(of_text: Experiment, tiny: Tiny) -> None:
    other = replace(of_text, task=tiny("task=recall").task)
    with pytest.raises(ArchlabError, match="needs a text to predict; the task 'recall' has none"):
        loss_by_context(build(of_text.model), other, SuiteRequest(), untold)


def test_a_model_that_sees_later_tokens_is_refused(of_text: Experiment, tiny: Tiny) -> None:
    layer = {"mixer": {"type": "attention", "num_heads": 2, "attention": "bidirectional"}}
    model = build(tiny(f"model.layers=[{layer}]").model)
    with pytest.raises(ArchlabError, match="the suite context needs a causal model; this one sees later tokens"):
        loss_by_context(model, of_text, SuiteRequest(), untold)


def test_a_text_that_cannot_be_read_is_named(run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("")
    (tmp_path / "bytes").write_bytes(b"caf\xe9")
    for name, problem in (("nowhere", "cannot be read: "), ("none", "is empty"), ("bytes", "is not UTF-8")):
        done = run("eval", str(trained), "--suite", "context", "--text", name)
        assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
        assert f"{name}: {problem}" in done.err


def test_suites_are_found_by_name() -> None:
    assert find_suite("context") is loss_by_context
    with pytest.raises(ArchlabError, match=r"no suite 'contxt'; did you mean 'context'\?"):
        find_suite("contxt")
