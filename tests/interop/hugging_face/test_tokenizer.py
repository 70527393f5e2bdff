"""A tokenizer comes along with a checkpoint of transformers, in both directions; without one there is no text."""

import json
from pathlib import Path

import pytest
import torch
from data_helpers import SENTENCES, write_json_lines, write_tokenizer

from archlab import ArchlabError, api
from archlab.interop import describe_pretrained, import_checkpoint, load_pretrained, save_pretrained
from archlab.modeling.build import build
from archlab.storage.model_tokens import read_tokens
from archlab.storage.trained_model import load_trained

CONFIG = {
    "model_type": "llama",
    "vocab_size": 402,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint whose tokenizer begins a text with a BOS, and was saved with truncation."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizer files need tokenizers")
    place = tmp_path / "llama"
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_pretrained(build(describe_pretrained(tmp_path)), place, "llama")
    tokenizer = tokenizers.Tokenizer.from_file(str(write_tokenizer(place / "tokenizer.json")))
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    tokenizer.enable_truncation(8)
    template = tokenizers.processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 400)])
    tokenizer.post_processor = template
    tokenizer.save(str(place / "tokenizer.json"))
    return place


@pytest.mark.slow
def test_a_tokenizer_comes_along_and_goes_back(folder: Path, tmp_path: Path) -> None:
    out = import_checkpoint(folder, tmp_path / "out").rename(tmp_path / "moved")
    experiment, model = load_trained(out)
    task = experiment.task.factory()()
    assert task.encode(SENTENCES[3])[0] == 400
    assert task.decode(task.encode(SENTENCES[3])) == f"<bos>{SENTENCES[3]}"
    assert len("".join(api.generate(out, "Ente", max_new_tokens=3))) > 0
    back = save_pretrained(model, tmp_path / "back")
    assert (back / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    again = save_pretrained(load_pretrained(folder), tmp_path / "again")
    assert (again / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


@pytest.mark.slow
def test_a_text_is_measured_as_transformers_measures_it(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    write_json_lines(tmp_path / "text" / "test.jsonl", SENTENCES[:1])
    for split in ("train", "validation"):
        write_json_lines(tmp_path / "text" / f"{split}.jsonl")
    out, task = import_checkpoint(folder, tmp_path / "out"), f"task={{type: text, path: {tmp_path / 'text'}}}"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokens = torch.tensor([[*tokenizer.encode(SENTENCES[0]).ids, 0]])  # its own BOS, and the end of the document
    assert tokens[0, 0] == 400
    with torch.no_grad():
        logits = load_pretrained(folder)(tokens[:, :-1])[0]
    expected = torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:])
    found = api.evaluate(out, [task, "train.context=60", "train.precision=float32"])
    assert found.tokens == tokens.shape[1] - 1
    assert found.metrics["loss"] == pytest.approx(float(expected), rel=1e-5)
    without = api.evaluate(out, [task, "train.context=60", "task.special_tokens=false"])
    assert without.tokens == tokens.shape[1] - 2


def test_special_tokens_can_be_left_out_from_the_start(folder: Path, tmp_path: Path) -> None:
    out = import_checkpoint(folder, tmp_path / "out", special_tokens=False)
    assert 400 not in load_trained(out)[0].task.factory()().encode(SENTENCES[3])


@pytest.mark.parametrize(
    ("name", "message"), [(None, "holds no tokenizer.json"), ("tokenizer.model", "holds only tokenizer.model, which")]
)
def test_a_missing_tokenizer_is_reported_and_not_guessed(
    folder: Path, tmp_path: Path, name: str | None, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    if name is not None:
        (folder / name).write_bytes(b"\n")
    out = import_checkpoint(folder, tmp_path / "out")
    assert message in caplog.text
    with pytest.raises(ArchlabError, match="imported without a tokenizer: import it again with --tokenizer FILE"):
        api.generate(out, "Ente")
    named = import_checkpoint(folder, tmp_path / "named", tokenizer=str(tmp_path / "elsewhere.json"))
    tokens = read_tokens(named)
    assert tokens is not None
    assert tokens.before == ("<bos>",)
    with pytest.raises(ArchlabError, match="--tokenizer nowhere: no such file; give 'bytes' or the path"):
        import_checkpoint(folder, tmp_path / "x", tokenizer="nowhere")


def test_a_damaged_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ArchlabError, match=r"llama/tokenizer\.json: is not a tokenizer\.json"):
        import_checkpoint(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_prompt_beyond_the_models_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<more>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    out = import_checkpoint(folder, tmp_path / "out")
    with pytest.raises(ArchlabError, match="the prompt has the token 402, but the model's vocabulary ends at 401"):
        api.generate(out, "<more>")


@pytest.mark.slow
@pytest.mark.usefixtures("unproved")
def test_an_export_carries_the_tokenizer(folder: Path, tmp_path: Path) -> None:
    out = api.export(import_checkpoint(folder, tmp_path / "out"), tmp_path / "export", to=["standalone"])
    assert (out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    head = (out / "modeling_llama.py").read_text()
    assert "The tokens are those of tokenizer.json; its special tokens are '<bos>' before a text." in head
    assert "def main(" not in head
