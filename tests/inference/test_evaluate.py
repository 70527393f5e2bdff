"""The loss is the mean over every predicted token, each counted once."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_model import Bigram
from torch import Tensor

from archlab import ArchlabError
from archlab.components.task.text import Text
from archlab.inference.evaluate import evaluate


@pytest.fixture
def task(tmp_path: Path) -> Text:
    (tmp_path / "text").write_bytes(bytes(range(1, 256)) * 10)
    return Text(path=str(tmp_path / "text"))


@pytest.mark.parametrize(("batch_size", "context"), [(1, 1), (1, 7), (3, 16), (50, 64), (4, 500)])
@pytest.mark.parametrize("max_tokens", [None, 1, 50])
def test_the_loss_is_exact_however_the_split_is_cut(
    task: Text, batch_size: int, context: int, max_tokens: int | None
) -> None:
    model = Bigram(torch.randn(256, 256, generator=torch.Generator().manual_seed(0)))
    found = evaluate(model, task, "validation", batch_size=batch_size, context=context, max_tokens=max_tokens)
    text = torch.tensor(list(task.text("validation")))
    expected = -model.table.detach().double().log_softmax(-1)[text[:-1], text[1:]][:max_tokens]
    assert found.tokens == len(expected) == (max_tokens or task.length("validation") - 1)
    assert found.metrics["loss"] == pytest.approx(expected.mean().item(), rel=1e-6)
    assert found.metrics["bpb"] == pytest.approx(found.metrics["loss"] / math.log(2))
    assert found.tokens_per_s > 0


def test_a_uniform_model_needs_eight_bits(task: Text) -> None:
    found = evaluate(Bigram(torch.zeros(256, 256)), task, "test", batch_size=2, context=9)
    assert found.metrics["bpb"] == pytest.approx(8)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_put_back_and_no_gradient_is_kept(task: Text, training: bool) -> None:
    model = Bigram(torch.zeros(256, 256)).train(training)
    evaluate(model, task, "test", batch_size=2, context=9)
    assert model.training is model.dropout.training is training
    assert model.table.grad is None


class Halved(Bigram):
    """A model with a product that autocast computes in bfloat16."""

    def forward(self, tokens: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        logits, state = super().forward(tokens, state)
        self.product = logits @ torch.eye(256)
        return self.product, state


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_that_of_the_products(task: Text, precision: str, dtype: torch.dtype) -> None:
    model = Halved(torch.zeros(256, 256))
    assert evaluate(model, task, "test", batch_size=2, context=9, precision=precision).metrics["bpb"] == pytest.approx(
        8
    )
    assert model.product.dtype is dtype


def test_an_unknown_precision_is_refused(task: Text) -> None:
    with pytest.raises(ArchlabError, match=r"precision: no precision 'bfloat'; did you mean 'bfloat16'\?"):
        evaluate(Bigram(torch.zeros(256, 256)), task, "test", batch_size=2, context=9, precision="bfloat")


class Silent:
    """A task with nothing to predict."""

    metrics = ("loss",)

    def eval_batches(self, *_: object) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(())


def test_a_split_without_tokens_is_refused() -> None:
    with pytest.raises(ArchlabError, match="the test split has no token to predict"):
        evaluate(Bigram(torch.zeros(4, 4)), Silent(), "test", batch_size=1, context=1)


def test_half_precision_is_the_models_and_not_the_measures(task: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    model, measure = Bigram(torch.zeros(256, 256)), task.compute_metrics
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *x: (seen.append(torch.is_autocast_enabled("cpu")), forward(*x))[1])
    monkeypatch.setattr(
        task, "compute_metrics", lambda *x: (seen.append(torch.is_autocast_enabled("cpu")), measure(*x))[1]
    )
    evaluate(model, task, "test", batch_size=2, context=9, max_tokens=18, precision="bfloat16")
    assert seen == [True, False]
