"""A run keeps its tokenizer from its start, and refuses to continue with another."""

from pathlib import Path

import pytest
from conftest import Tiny
from data_helpers import SENTENCES, write_tokenizer

from archlab import ArchlabError
from archlab.config.experiment import Experiment
from archlab.storage.model_tokens import read_tokens
from archlab.training.run_tokens import keep_run_tokens, read_run_tokens, use_run_tokens
from archlab.training.trainer import train

STEPS = ("train.steps=2", "train.eval_every=0", "train.checkpoint_every=1", "train.context=8", "model.vocab_size=512")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A text in one file."""
    (tmp_path / "corpus.txt").write_text("\n".join(SENTENCES * 2))
    return tmp_path / "corpus.txt"


def of_words(tiny: Tiny, corpus: Path) -> Experiment:
    return tiny(*STEPS, f"task={{type: text, path: {corpus}, tokenizer: words, vocab_size: 20}}")


@pytest.mark.slow
def test_a_run_ends_without_the_tokenizer_it_began_with(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    file, run = write_tokenizer(tmp_path / "tokenizer.json"), tmp_path / "run"
    task = f"task={{type: text, path: {corpus}, tokenizer: {file}}}"
    train(tiny(*STEPS, task, "train.steps=2"), run)
    kept = read_tokens(run / "final")
    assert kept is not None
    assert kept.files["tokenizer.json"] == file.read_bytes()
    assert read_run_tokens(run) == kept
    written = file.read_text()
    file.write_text(written + " ")
    with pytest.raises(ArchlabError, match=r"run: the run's tokens are tokenizer\.json.* now tokenizer\.json"):
        train(tiny(*STEPS, task), run, resume=True)
    file.unlink()
    train(tiny(*STEPS, task), run, resume=True)
    assert read_tokens(run / "final") == kept


def test_words_of_a_corpus_that_has_grown_are_refused(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    keep_run_tokens(of_words(tiny, corpus), tmp_path / "run", resume=False)
    own = use_run_tokens(of_words(tiny, corpus), tmp_path / "run").task.factory()()
    assert own.tokenizer_name == str(tmp_path / "run" / "tokens" / "vocabulary.json")
    grown = tmp_path / "grown.txt"
    grown.write_text("other words " * 999)
    with pytest.raises(ArchlabError, match=r"the run's tokens are words, sha256 .* its task are now words, sha256"):
        use_run_tokens(of_words(tiny, grown), tmp_path / "run")


def test_an_older_run_gets_its_tokens_when_it_is_resumed(tiny: Tiny, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    experiment = of_words(tiny, corpus)
    assert use_run_tokens(experiment, tmp_path / "run") is experiment
    keep_run_tokens(experiment, tmp_path / "run", resume=True)
    assert read_run_tokens(tmp_path / "run") == experiment.task.factory()().model_tokens()
