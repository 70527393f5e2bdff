"""Exports that other tools have tuned and saved are read back as checkpoints; others are refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Finished
from safetensors.torch import load_file, save_file
from test_export_formats import MIXED, publish

import archlab
from archlab import ArchlabError
from archlab.config.import_file import import_file
from archlab.data.tokenizers.special_tokens import special_tokens
from archlab.data.tokenizers.word import WordTokenizer
from archlab.interop.exporting import export as exporting
from archlab.interop.exporting.hf_tokenizer import hf_tokenizer_files
from archlab.interop.exporting.tuned_tokens import read_tuned_tokens
from archlab.modeling.build import build
from archlab.storage.model_tokens import token_files
from archlab.storage.tensors import copy_into

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@pytest.fixture(scope="module")
def published(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two kinds of layers in `final`, and its export, which is not proved here."""
    folder = tmp_path_factory.mktemp("published")
    small = [MIXED, "model.dim=32", "train.batch_size=2", "train.context=32", "train.compile=off", "train.warmup=0"]
    task = f"task={{type: text, path: {text}, eval_bytes: 256}}"
    publish(archlab.load("llama2_tiny", [*small, task]), folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "prove", lambda *arguments: "")
        exporting.export(folder / "run", folder / "export")
    return folder


@pytest.fixture
def exported(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published / "export", tmp_path / "exported")


@pytest.fixture
def tuned(exported: Path, tmp_path: Path) -> Path:
    """What transformers' save_pretrained leaves of an export, with other weights."""
    folder = shutil.copytree(exported, tmp_path / "tuned")
    for name in ("config.yaml", "manifest.json", "provenance.json", "tokens.json", "README.md"):
        (folder / name).unlink()
    generator = torch.Generator().manual_seed(3)
    tensors = {
        f"model.{name}": tensor.double() + 0.01 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in load_file(folder / WEIGHTS).items()
    }
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    return folder


def logits_of_export(folder: Path, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what the export's own code makes of tokens, in a dtype."""
    module = import_file(next(folder.glob("modeling_*.py")), "modeling_tuned")
    model = module.build().to(dtype)
    tensors = {name.removeprefix("model."): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    model.load_state_dict(tensors)
    return model.eval()(tokens)[0]


@pytest.mark.slow
@torch.no_grad()
def test_a_tuned_export_comes_back(tuned: Path, tmp_path: Path) -> None:
    out = archlab.import_checkpoint(tuned, tmp_path / "back")
    tokens = torch.randint(256, (2, 23), generator=torch.Generator().manual_seed(0))
    exact = build(archlab.load(out / "experiment.yaml").model).double()
    copy_into(exact, load_file(out / WEIGHTS), out)
    expected = logits_of_export(tuned, tokens, torch.float64)
    torch.testing.assert_close(exact.eval()(tokens)[0].double(), expected.double(), rtol=0, atol=1e-10)
    expected = logits_of_export(tuned, tokens, torch.float32)
    torch.testing.assert_close(archlab.load_model(out)(tokens)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("unproved")
def test_it_is_a_checkpoint_like_others(tuned: Path, tmp_path: Path, run: Callable[..., Finished]) -> None:
    back = str(tmp_path / "back")
    start = f"train.start_from={{checkpoint: '{back}'}}"
    commands = {
        "tokens  bytes": ("import", str(tuned), "--out", back),
        "a": ("generate", back, "--prompt", "a", "--tokens", "3"),
        "test: loss": ("eval", back, "--tokens", "64"),
        "parameters": ("show", f"{back}/experiment.yaml"),
        "model": ("train", f"{back}/experiment.yaml", start, "train.steps=1", "--out", str(tmp_path / "more")),
    }
    for said, command in commands.items():
        finished = run(*command)
        assert (finished.status, said in finished.out) == (0, True), finished
    exporting.export(tmp_path / "back", tmp_path / "again")
    first, second = (load_file(tmp_path / place / WEIGHTS) for place in ("again", "back"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_an_export_that_was_not_tuned_comes_back_too(exported: Path, published: Path, tmp_path: Path) -> None:
    out = archlab.import_checkpoint(exported, tmp_path / "back")
    run = published / "run" / "final"
    for name in (WEIGHTS, "experiment.yaml", "tokens.json"):
        assert (out / name).read_bytes() == (run / name).read_bytes()
    (exported / WEIGHTS).write_bytes((exported / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(ArchlabError, match=r"model\.safetensors has \d+ bytes and not"):
        archlab.import_checkpoint(exported, tmp_path / "other")


def change_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text()) | values
        (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return change


def change_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        change(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return apply


def change_code(folder: Path) -> None:
    file = next(folder.glob("modeling_*.py"))
    file.write_text(file.read_text().replace("1.0", "2.0"))


HEAD = "model.head.weight"
REFUSED = {
    "other code": (change_code, r"modeling_\w+\.py: is other code than the export had"),
    "no code": (lambda folder: next(folder.glob("auto_*.py")).unlink(), r"holds no auto_\w+\.py, the code"),
    "another class": (change_config(auto_map={"AutoConfig": "mine.Config"}), "auto_map names 'mine.Config'"),
    "missing": (change_weights(lambda tensors: tensors.pop(HEAD)), r"missing 'head\.weight'"),
    "left over": (change_weights(lambda tensors: tensors.update(more=torch.ones(2))), "unexpected 'more'"),
    "another shape": (
        change_weights(lambda tensors: tensors.update({HEAD: tensors[HEAD][:9].clone()})),
        r"'head\.weight' is float \[9, 32\] and not float \[256, 32\]",
    ),
    "NaN": (change_weights(lambda tensors: tensors[HEAD][3].fill_(torch.nan)), r"'model\.head\.weight' holds NaN"),
    "more tokens": (change_config(vocab_size=257), "vocab_size 257 is not that of the export, 256"),
    "a later format": (change_config(archlab_format=2), "archlab_format 2 is not 1"),
    "an earlier export": (change_config(archlab_code=None), "has no archlab_code"),
    "no experiment": (change_config(archlab_experiment="- 1"), "archlab_experiment: is not a mapping"),
    "a knob that is none": (
        change_config(archlab_experiment="model: {type: stack, dim: 32, width: 3}\ntask: text"),
        "archlab_experiment: model: unknown knob 'width'",
    ),
    "quantized": (change_config(quantization_config={"bits": 4}), "the weights are quantized"),
    "of another library": (change_config(model_type="unheard"), "model_type 'unheard'"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"holds no model\.safetensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_export_is_refused(name: str, tuned: Path, tmp_path: Path) -> None:
    damage, problem = REFUSED[name]
    damage(tuned)
    with pytest.raises(ArchlabError, match=problem) as raised:
        archlab.import_checkpoint(tuned, tmp_path / "back")
    assert str(tuned) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "back").exists()


def test_a_tokenizer_is_not_named_for_it(tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match=r"--tokenizer bytes: .*whose tokens are known"):
        archlab.import_checkpoint(tuned, tmp_path / "back", tokenizer="bytes")


def test_words_are_those_that_the_model_was_trained_with(tmp_path: Path) -> None:
    tokens = WordTokenizer(b"one and one is two\n" * 3, 9).model_tokens()
    for name, data in hf_tokenizer_files(tokens, special_tokens(tokens)).items():
        (tmp_path / name).write_bytes(data)
    assert read_tuned_tokens(tmp_path, tokens.to_plain(), 9) == tokens
    with pytest.raises(ArchlabError, match="its words are not those"):
        read_tuned_tokens(tmp_path, tokens.to_plain(), 10)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ArchlabError, match="holds no words"):
        read_tuned_tokens(tmp_path, tokens.to_plain(), 9)
    for name, data in token_files(tokens).items():  # of an export, as it was written
        (tmp_path / name).write_bytes(data)
    assert read_tuned_tokens(tmp_path, tokens.to_plain(), 9) == tokens
