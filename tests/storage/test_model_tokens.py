"""A trained model carries what its tokens mean, and tasks whose tokens mean something else are refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Tiny
from data_helpers import SENTENCES, write_tokenizer
from torch import nn

from archlab import ArchlabError
from archlab.config.experiment import Experiment
from archlab.data.tokenizers import UNKNOWN_TOKENS, ModelTokens, WordTokenizer, load_tokenizer
from archlab.storage import checkpoint
from archlab.storage.model_tokens import read_tokens, write_tokens
from archlab.storage.trained_task import load_experiment

Publish = Callable[..., Path]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A text in three files, of which a task is made."""
    (tmp_path / "corpus").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / "corpus" / f"{split}.txt").write_text("\n".join(SENTENCES))
    return tmp_path / "corpus"


@pytest.fixture
def publish(tiny: Tiny, tmp_path: Path) -> Publish:
    """Publish a model that was never trained, with its tokens unless they are to be left out, as before."""

    def save(task: str, *, carried: bool = True, origin: str = "trained") -> Path:
        experiment = tiny(f"task={task}", "model.vocab_size=512")
        meaning = experiment.task.factory()().model_tokens() if carried else None
        checkpoint.save_model(tmp_path / "model", nn.Linear(1, 1), experiment.resolved, {origin: "x"}, meaning)
        return tmp_path / "model"

    return save


def tokenizer_of(experiment: Experiment) -> object:
    return experiment.task.factory()().tokenizer


def test_a_moved_tokenizer_is_of_no_account(publish: Publish, corpus: Path, tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = load_tokenizer(str(file))
    model = publish(f"{{type: text, path: {corpus}, tokenizer: {file}}}")
    file.unlink()
    experiment, tokens = load_experiment(model, ())
    assert tokenizer_of(experiment) == tokenizer
    assert tokens == tokenizer.model_tokens()


def test_a_vocabulary_of_words_does_not_grow_with_the_corpus(publish: Publish, corpus: Path) -> None:
    model = publish(f"{{type: text, path: {corpus}, tokenizer: words, vocab_size: 20}}")
    words = tokenizer_of(load_experiment(model, ())[0])
    other = corpus / "other.txt"  # the corpus itself is read once in a process
    other.write_text("another corpus of other words, now in this place " * 40)
    for overrides in ([], [f"task={{type: text, path: {other}}}"], [f"task.path={other}"], ["task.glob='*.txt'"]):
        assert tokenizer_of(load_experiment(model, overrides)[0]) == words
    with pytest.raises(ArchlabError, match=r"task\.tokenizer: the tokens of the task 'text' are words"):
        load_experiment(model, [f"task={{type: text, path: {other}, tokenizer: words, vocab_size: 20}}"])


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "task={type: text, path: CORPUS, tokenizer: bytes}",
            r"task\.tokenizer: the tokens .* are bytes, but the model",
        ),
        (
            "task.tokenizer=bytes",
            r"task\.tokenizer: the tokens of the task 'text' are bytes, but the model's",
        ),
        ("task=stdlib", r"task: the tokens of the task 'stdlib' are bytes"),
        ("task={type: recall, vocab_size: 64}", r"task: the tokens of the task 'recall' are tokens of the task recall"),
        ("task.tokenizer=OTHER", r"task\.tokenizer: the tokens .* are tokenizer\.json, sha256"),
    ],
)
def test_other_tokens_are_refused(publish: Publish, corpus: Path, tmp_path: Path, override: str, problem: str) -> None:
    file = write_tokenizer(tmp_path / "tokenizer.json")
    model = publish(f"{{type: text, path: {corpus}, tokenizer: {file}}}")
    other = tmp_path / "other.json"
    other.write_text(file.read_text() + " ")
    with pytest.raises(ArchlabError, match=problem):
        load_experiment(model, [override.replace("CORPUS", str(corpus)).replace("OTHER", str(other))])


def test_a_model_of_synthetic_tokens_reads_no_text(publish: Publish, corpus: Path) -> None:
    model = publish("{type: recall, vocab_size: 256}")
    load_experiment(model, ["task.num_pairs=3"])
    with pytest.raises(ArchlabError, match="task: the tokens of the task 'text' are bytes, but the model's"):
        load_experiment(model, [f"task={{type: text, path: {corpus}}}"])


@pytest.mark.parametrize("carried", [True, False])
def test_tokens_of_unknown_meaning_are_not_bytes(publish: Publish, corpus: Path, tmp_path: Path, carried: bool) -> None:
    # A checkpoint of before has no tokens.json, and `bytes` as its task's tokenizer, which was the default.
    task = "{type: no_data, vocab_size: 512}" if carried else "{type: no_data, vocab_size: 512, tokenizer: bytes}"
    model, text = publish(task, carried=carried, origin="imported_from"), f"type: text, path: {corpus}"
    with pytest.raises(ArchlabError, match="imported without a tokenizer: import it again with --tokenizer FILE"):
        load_experiment(model, ())[0].task.factory()().encode("def")
    with pytest.raises(ArchlabError, match=r"task\.tokenizer: the model was imported without a tokenizer, .* name it"):
        load_experiment(model, [f"task={{{text}}}"])
    with pytest.raises(ArchlabError, match=r"task: the tokens of the task 'stdlib' are bytes, but .* unknown"):
        load_experiment(model, ["task=stdlib"])
    file = write_tokenizer(tmp_path / "tokenizer.json")
    named = load_experiment(model, [f"task={{{text}, tokenizer: {file}}}"])[0]
    assert tokenizer_of(named) == load_tokenizer(str(file), special_tokens=True)
    assert tokenizer_of(load_experiment(model, [f"task={{{text}, tokenizer: bytes}}"])[0]) == load_tokenizer("bytes")


def test_an_older_model_has_the_tokenizer_of_its_task(publish: Publish, corpus: Path, tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path / "tokenizer.json")
    model = publish(f"{{type: text, path: {corpus}, tokenizer: {file}}}", carried=False)
    for overrides in ([], [f"task={{type: text, path: {corpus}}}"]):
        assert tokenizer_of(load_experiment(model, overrides)[0]) == load_tokenizer(str(file))
    with pytest.raises(ArchlabError, match="the tokens of the task 'text' are bytes"):
        load_experiment(model, ["task.tokenizer=bytes"])
    file.rename(tmp_path / "moved.json")
    load_experiment(model, ())
    moved = load_experiment(model, [f"task.tokenizer={tmp_path / 'moved.json'}"])[0]
    assert tokenizer_of(moved) == load_tokenizer(str(tmp_path / "moved.json"))


def test_special_tokens_may_be_turned_off(publish: Publish, corpus: Path, tmp_path: Path) -> None:
    file = write_tokenizer(tmp_path / "tokenizer.json")
    model = publish(f"{{type: text, path: {corpus}, tokenizer: {file}, special_tokens: true}}")
    text = f"type: text, path: {corpus}"
    for override, is_on in ((text, True), (f"{text}, special_tokens: false", False)):
        task = load_experiment(model, [f"task={{{override}}}"])[0].task.factory()()
        assert task.tokenizer.special_tokens is is_on


def test_damage_is_named(tmp_path: Path) -> None:
    write_tokens(tmp_path / "t", WordTokenizer(b"a b", 4).model_tokens())
    assert read_tokens(tmp_path / "t") == WordTokenizer(b"a b", 4).model_tokens()
    (tmp_path / "t" / "vocabulary.json").write_text("{}")
    with pytest.raises(ArchlabError, match=r"vocabulary\.json: has changed since it was written"):
        read_tokens(tmp_path / "t")
    for tree in (
        [],
        {"kind": 3},
        {"kind": "words", "x": 1},
        {"kind": "words", "files": ["../a"]},
        {"kind": "a", "files": [1]},
    ):
        (tmp_path / "t" / "tokens.json").write_text(json.dumps(tree))
        with pytest.raises(ArchlabError, match=r"tokens\.json"):
            read_tokens(tmp_path / "t")
    (tmp_path / "t" / "vocabulary.json").unlink()
    (tmp_path / "t" / "tokens.json").write_text('{"kind": "words", "files": ["vocabulary.json"]}')
    with pytest.raises(ArchlabError, match=r"vocabulary\.json: cannot be read: No such file or directory$"):
        read_tokens(tmp_path / "t")
    for text, problem in (
        (b"{", "Expecting"),
        (b"\xff", "it is not UTF-8: byte 0xFF at 0$"),
        (b"[" * 10**5, "maximum"),
    ):
        (tmp_path / "t" / "tokens.json").write_bytes(text)
        with pytest.raises(ArchlabError, match=rf"tokens\.json: cannot be read: {problem}"):
            read_tokens(tmp_path / "t")
    write_tokens(tmp_path / "u", UNKNOWN_TOKENS)
    assert read_tokens(tmp_path / "u") == UNKNOWN_TOKENS
    assert read_tokens(tmp_path) is None
    assert str(ModelTokens("tokenizer", "a" * 64, True, ("<s>",), ("</s>",))) == (
        "tokenizer.json, sha256 aaaaaaaaaaaa; special tokens on: <s> before and </s> after a text"
    )


def test_a_checkpoint_of_before_may_have_its_tokenizer_beside_it(
    publish: Publish, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus)
    write_tokenizer(corpus / "tokenizer.json")
    model = publish(f"{{type: text, path: {corpus}, tokenizer: tokenizer.json}}", carried=False)
    text = (model / "experiment.yaml").read_text().replace(str(corpus / "tokenizer.json"), "tokenizer.json")
    (model / "experiment.yaml").write_text(text)
    tokenizer = load_tokenizer(str((corpus / "tokenizer.json").rename(model / "tokenizer.json")))
    assert tokenizer_of(load_experiment(model, [f"task={{type: text, path: {corpus}}}"])[0]) == tokenizer


def test_a_damaged_provenance_says_nothing_of_the_tokens(publish: Publish) -> None:
    model = publish("{type: no_data, vocab_size: 512, tokenizer: bytes}", carried=False)
    (model / "provenance.json").write_text("{")
    with pytest.raises(ArchlabError, match=r"provenance\.json: is not the provenance of a model"):
        load_experiment(model, ())
