"""A prepared corpus is found by its name, refused where it is missing, and read like the text that it was made of."""

from pathlib import Path

import pytest
import torch
from data_helpers import SENTENCES, write_json_lines, write_tokenizer

import archlab
from archlab import ArchlabError
from archlab.components.task.prepared import Prepared
from archlab.components.task.text import Text
from archlab.config import experiment as config
from archlab.config.yaml_files import shipped_files
from archlab.training.step import check_experiment


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARCHLAB_CORPORA", str(tmp_path / "corpora"))
    write_json_lines(tmp_path / "text" / "a.jsonl", SENTENCES)
    write_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path / "corpora"


def prepare(corpora: Path, name: str = "mine") -> None:
    folder = corpora.parent
    archlab.prepare_corpus(folder / "text", corpora / name, tokenizer=folder / "tokenizer.json", eval_bytes=900)


def test_it_is_the_text_that_it_was_made_of(corpora: Path) -> None:
    prepare(corpora)
    text = Text(path=str(corpora.parent / "text"), tokenizer=str(corpora.parent / "tokenizer.json"), eval_bytes=900)
    task = Prepared(corpus="mine", vocab_size=500)
    task.check(16)
    assert (task.vocab_size, task.num_outputs) == (500, 500)
    assert torch.equal(task.batch("train", 7, 3, 16, 2)[1], text.batch("train", 7, 3, 16, 2)[1])
    own, theirs = task.describe(), text.describe()
    assert {**own, "source": ""} == {**theirs, "source": ""}
    assert task.bytes_per_token("test") == text.bytes_per_token("test")
    assert task.has_bits_per_byte("validation")
    assert task.has_bits_per_byte("train")
    assert task.text("test") == text.text("test")
    assert task.encode("Ente") == text.encode("Ente")
    with pytest.raises(ArchlabError, match=r"mine: keeps the text of validation and test only, not that of train"):
        task.text("train")


def test_a_missing_one_is_named_with_what_makes_it(corpora: Path) -> None:
    message = r"^no prepared corpus 'mine' in .*corpora \(ARCHLAB_CORPORA\)(; .*)?; archlab prepare EXPERIMENT --corpus"
    for request in ("require_sources", "model_tokens", "check"):
        with pytest.raises(ArchlabError, match=message):
            getattr(Prepared(corpus="mine", vocab_size=500), request)()
    prepare(corpora, "mien")
    with pytest.raises(ArchlabError, match="did you mean 'mien'"):
        Prepared(corpus="mine", vocab_size=500).check(16)
    with pytest.raises(ArchlabError, match=r"^\./here: no prepared corpus there; archlab prepare"):
        Prepared(corpus="./here", vocab_size=500).check(16)


@pytest.mark.parametrize("name", ["", "/", "./", ".."])
def test_what_names_no_corpus_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^corpus '[./]*' is neither a name nor a path$"):
        Prepared(corpus=name, vocab_size=500)


def test_more_tokens_than_the_model_has_are_refused(corpora: Path) -> None:
    prepare(corpora)
    with pytest.raises(ArchlabError, match=r"mine: has 400 different tokens, more than vocab_size 399"):
        Prepared(corpus="mine", vocab_size=399).require_sources()


def test_a_damaged_one_is_named(corpora: Path) -> None:
    prepare(corpora)
    file = corpora / "mine" / "train.tokens"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(ArchlabError, match=r"mine: train\.tokens has [\d,]+ bytes and not [\d,]+$"):
        Prepared(corpus="mine", vocab_size=500).check(16)


def test_nothing_is_built_for_data_that_are_missing(corpora: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archlab.training.step.validate", lambda experiment: pytest.fail("a model was built"))
    with pytest.raises(ArchlabError, match="no prepared corpus 'text-32k'"):
        check_experiment(config.load("megalodon_7b", ["parallel=null"]))


@pytest.mark.slow
def test_full_size_experiments_name_data_of_their_vocabulary() -> None:
    loaded = [config.load(name) for name in shipped_files()]
    named = [each for each in loaded if each.task.name == "prepared"]
    assert "megalodon_7b" in {each.name for each in named}
    for each in named:
        assert each.task.knobs["vocab_size"] == each.model.knobs["vocab_size"]
        thousands = int(each.task.knobs["corpus"].rpartition("-")[2].removesuffix("k"))
        assert thousands * 1000 <= 1.03 * each.model.knobs["vocab_size"]


@pytest.mark.slow
def test_prepared_by_the_experiments_name_and_trained_on(run, corpora: Path, tiny_file: Path) -> None:
    task = "task={type: prepared, corpus: named, vocab_size: 400}"
    arguments = (str(tiny_file), task, "model.vocab_size=400")
    done = run("train", *arguments)
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert "no prepared corpus 'named'" in done.err
    text, tokenizer = str(corpora.parent / "text"), str(corpora.parent / "tokenizer.json")
    done = run("prepare", *arguments, "--corpus", text, "--tokenizer", tokenizer, "--eval-bytes", "900")
    assert (done.status, "tokens in" in done.out) == (0, True)
    assert run("prepare", *arguments, "--check").status == 0
    done = run("train", *arguments, "train.steps=2", "--out", "run")
    assert done.status == 0
    (corpora / "named").rename(corpora / "away")
    assert run("generate", "run", "--prompt", "Ente", "--tokens", "3").status == 0  # the model carries its tokenizer
    done = run("eval", "run")
    assert (done.status, "no prepared corpus 'named'" in done.err) == (2, True)
