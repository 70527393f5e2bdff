"""The digits are split once and for all, shuffled by epoch, and measured whole."""

import importlib

import pytest
import torch

from archlab import ArchlabError
from archlab.components.task import digits
from archlab.components.task.digits import Digits
from archlab.config.registry import find

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
SPLITS = ("train", "validation", "test")


def all_of(task: Digits, split: str) -> list[tuple[int, ...]]:
    batches = task.eval_batches(split, 64, 64)
    return [tuple(x.flatten().tolist()) for inputs, classes in batches for x in inputs[classes != -100]]


def test_it_is_known_to_yaml() -> None:
    assert find("task", "digits").cls is Digits
    assert (Digits().vocab_size, Digits(inputs="pixels").vocab_size, Digits().num_outputs) == (None, 17, 10)
    assert Digits().per_sample
    assert not Digits().predicts_next


@pytest.mark.slow
def test_the_images_are_split_once() -> None:
    seen = [set(all_of(Digits(inputs="pixels"), split)) for split in SPLITS]
    assert [len(split) for split in seen] == [1197, 300, 300]
    assert not any(one & other for one, other in zip(seen, [*seen[1:], seen[0]], strict=True))
    facts = Digits().describe()
    assert facts["samples"] == {"train": 1197, "validation": 300, "test": 300}
    assert facts["sha256"] == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_images_are_the_pixels_scaled() -> None:
    images, digits = Digits().batch("train", 3, 5, 64, 7)
    tokens, same = Digits(inputs="pixels").batch("train", 3, 5, 64, 7)
    assert images.shape == (5, 1, 8, 8)
    assert tokens.shape == (5, 64)
    assert (tokens.dtype, tokens.min() >= 0, tokens.max() <= 16) == (torch.int64, True, True)
    assert torch.equal(images, tokens.view(5, 1, 8, 8) / 8 - 1)
    assert torch.equal(digits, same)


@pytest.mark.parametrize("inputs", ["image", "pixels"])
def test_the_example_is_like_a_batch(inputs: str) -> None:
    task = Digits(inputs=inputs)
    given, _ = task.batch("train", 0, 3, 64, 0)
    example = task.example_inputs(3, 64, "cpu")
    assert (example.shape, example.dtype) == (given.shape, given.dtype)


def test_a_batch_depends_on_its_arguments_alone() -> None:
    task = Digits()
    first, _ = task.batch("train", 40, 8, 64, 1)
    task.batch("train", 3, 2, 64, 5)
    assert torch.equal(Digits().batch("train", 40, 8, 64, 1)[0], first)
    assert not torch.equal(task.batch("train", 40, 8, 64, 2)[0], first)
    assert Digits().batch("train", 0, 12, 64, 0)[1].tolist() == [9, 9, 5, 4, 8, 2, 5, 5, 7, 5, 0, 5]


def test_an_epoch_visits_every_image_once() -> None:
    task = Digits(inputs="pixels")
    seen = [tuple(x.tolist()) for step in range(21) for x in task.batch("train", step, 57, 64, 0)[0]]
    assert len(seen) == 1197
    assert set(seen) == set(all_of(task, "train"))
    again = [tuple(x.tolist()) for step in range(21, 42) for x in task.batch("train", step, 57, 64, 0)[0]]
    assert set(again) == set(seen)
    assert again != seen


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@pytest.mark.parametrize("max_tokens", [None, 1, 64, 65, 10**6])
def test_evaluation_sees_the_same_images_whatever_the_batch(batch_size: int, max_tokens: int | None) -> None:
    batches = list(Digits().eval_batches("test", batch_size, 64, max_tokens))
    assert len({inputs.shape for inputs, _ in batches}) == 1
    kept = torch.cat([inputs[digits != -100] for inputs, digits in batches])
    whole = torch.cat([inputs for inputs, _ in Digits().eval_batches("test", 300, 64)])
    assert torch.equal(kept, whole[: {None: 300, 1: 1, 64: 1, 65: 2, 10**6: 300}[max_tokens]])


def test_accuracy_is_measured() -> None:
    task = Digits()
    digits = torch.tensor([3, 4, -100, 5])
    logits = torch.eye(10)[[3, 4, 0, 6]]
    (loss, asked), (right, _) = task.compute_metrics(logits, digits).values()
    assert (int(right), int(asked)) == (2, 3)
    assert loss > 0


def test_what_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchlabError, match=r"an image has 64 pixels, which train\.context 63 has to be"):
        Digits().check(63)
    with pytest.raises(ArchlabError, match=r"no split 'valid'; did you mean 'validation'\?"):
        Digits().batch("valid", 0, 1, 64, 0)
    Digits().check(64)

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    digits._load.cache_clear()
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ArchlabError, match=r"which is missing: pip install scikit-learn$"):
        Digits().check(64)
