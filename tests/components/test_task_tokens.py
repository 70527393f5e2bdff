"""What a task's tokens mean, as a model keeps it."""

import logging

import pytest

from archlab import ArchlabError, ConfigError
from archlab.components.task.image_folder import ImageFolder
from archlab.components.task.no_data import NoData
from archlab.components.task.no_data_classifier import NoDataClassifier
from archlab.components.task.recall import Recall
from archlab.components.task.stdlib import Stdlib
from archlab.components.task.text import Text
from archlab.config.experiment import load
from archlab.data.tokenizers import UNKNOWN_TOKENS
from archlab.modeling.build import validate


def test_every_task_has_a_vocabulary() -> None:
    assert Stdlib().model_tokens().kind == Text(path="x").model_tokens().kind == "bytes"
    assert Recall().model_tokens().kind == "tokens of the task recall"
    assert NoData(vocab_size=9).model_tokens() == UNKNOWN_TOKENS
    assert ImageFolder(path="x", num_classes=2, num_channels=1, inputs="pixels").model_tokens().kind == "gray levels"
    assert ImageFolder(path="x", num_classes=2).model_tokens() is None


@pytest.mark.parametrize("tokenizer", ["bytes", "words", "a/vocabulary.json"])
def test_only_a_tokenizer_file_has_special_tokens(tokenizer: str) -> None:
    vocab_size = 9 if tokenizer == "words" else None
    with pytest.raises(ValueError, match=r"only a tokenizer\.json has special tokens"):
        Text(path="x", tokenizer=tokenizer, vocab_size=vocab_size, special_tokens=True)


def test_a_truncated_prompt_is_reported(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path_factory.mktemp("words")
    (folder / "a.txt").write_text("a b c\n" * 99)
    task = Text(path=str(folder), tokenizer="words", vocab_size=9)
    with caplog.at_level(logging.WARNING):
        assert task.encode("a b") == [task.tokenizer.encode("a")[0], task.tokenizer.encode("b")[0]]
        assert caplog.text == ""
        task.encode("a zebra")
    assert "the tokenizer loses part of 'a zebra', as the unknown word 'zebra'" in caplog.text


def test_an_imported_classifier_has_classes_and_no_data() -> None:
    task = NoDataClassifier(num_outputs=10)
    assert (task.num_outputs, task.vocab_size, task.per_sample) == (10, None, True)
    fewer = load("deit_tiny", ["task={type: no_data_classifier, num_outputs: 99}"])
    with pytest.raises(ConfigError, match=r"model\.head: \d+ outputs are less than the 99 of the task"):
        validate(fewer)
    with pytest.raises(ArchlabError, match="an imported model has no data of its own: name some"):
        task.batch("train", 0, 1, 4, 0)
