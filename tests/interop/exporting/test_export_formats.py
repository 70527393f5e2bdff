"""Exports in every format, compared with the model and with transformers; what has no such format is refused."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import Tiny
from safetensors.torch import load_file, save_file

import archlab
from archlab import ArchlabError
from archlab.config.experiment import Experiment, load
from archlab.config.import_file import import_file
from archlab.data.tokenizers.special_tokens import special_tokens
from archlab.interop.exporting import export as exporting
from archlab.interop.exporting import weights as weight_files
from archlab.interop.exporting._prove import run_loader
from archlab.interop.exporting.export import export
from archlab.interop.exporting.exported_model import ExportedModel, read_model
from archlab.interop.exporting.format import format_names, make_formats
from archlab.interop.exporting.hf_tokenizer import hf_tokenizer_files
from archlab.interop.exporting.proof import TOLERANCE, Expected, _difference, expected_logits, prove
from archlab.interop.exporting.tuned_tokens import read_tuned_tokens
from archlab.interop.exporting.weights import write_weights
from archlab.modeling.build import build
from archlab.storage.checkpoint import save_model
from archlab.storage.model_tokens import token_files

MEGALODON = "{mixer: {type: megalodon, shared_dim: 16, value_dim: 32}, ffn: {type: mlp, hidden_dim: 16}}"
MEGA = "{mixer: {type: mega, shared_dim: 8, value_dim: 32, ema: {type: ema, num_dims: 2}}, ffn: swiglu}"
MIXED = f"model.layers=[{MEGALODON}, {MEGA}]"
GENERATE = """
import copy
import sys
sys.modules["archlab"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

def drafts(model):
    "A model that is often, and not always, of the same opinion."
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    return other

for folder, again in zip(sys.argv[1::2], sys.argv[2::2]):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    texts = ["def f(x):", "Ā 漢字 <|pad|", "a"]
    assert all(tokenizer(text)["input_ids"] == list(text.encode()) for text in texts)
    assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts] == texts
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    for options in ({"do_sample": False}, {"num_beams": 3, "do_sample": False}):
        new = model.generate(**batch, max_new_tokens=6, **options)[:, -6:]
        for row, text in enumerate(texts):
            alone = tokenizer(text, return_tensors="pt")
            assert torch.equal(model.generate(**alone, max_new_tokens=6, **options)[0, -6:], new[row])
            torch.testing.assert_close(model(**batch).logits[row, -1], model(**alone).logits[0, -1], rtol=0, atol=1e-5)
    whole = model.generate(**batch, max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(whole, model.generate(**batch, max_new_tokens=4, do_sample=False))
    torch.manual_seed(0)
    ended = model.generate(**batch, max_new_tokens=5, do_sample=True, eos_token_id=int(new[0, 1]))
    assert ended.shape[1] <= batch["input_ids"].shape[1] + 5
    outputs = pipeline("text-generation", model=model, tokenizer=tokenizer)(texts, batch_size=3, max_new_tokens=2)
    assert all(each[0]["generated_text"].startswith(text) for each, text in zip(outputs, texts))
    alone = tokenizer("1 times 1 is 1. 2 times 1 is 2. 3 times", return_tensors="pt")
    greedy = model.generate(**alone, max_new_tokens=24, do_sample=False)
    for options in ({"prompt_lookup_num_tokens": 5}, {"assistant_model": drafts(model)}):
        assert torch.equal(model.generate(**alone, max_new_tokens=24, do_sample=False, **options), greedy)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    loss = model(**batch, labels=labels).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in model.parameters())
    model.save_pretrained(again)
    saved = AutoModelForCausalLM.from_pretrained(again, trust_remote_code=True)
    torch.testing.assert_close(saved(**batch).logits, model(**batch).logits, rtol=0, atol=1e-5)
"""


def publish(experiment: Experiment, folder: Path) -> Path:
    model = build(experiment.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    tokens = experiment.task.factory()().model_tokens()
    save_model(folder / "final", model, experiment.resolved, {"step": 3}, tokens)
    return folder


def run_python(code: str, *arguments: object, home: Path) -> None:
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr


def prove_here(name: str, folder: Path, loader: str, expected: Expected) -> str:
    """Prove an export as archlab does, but in this process, which has imported all that each would import."""
    for what, logits in run_loader(loader, str(folder), expected.inputs).items():
        _difference(name, what, logits, expected.logits[what], 1e-4 if name == "native" else TOLERANCE)
    return "proved here"


@pytest.mark.services
def test_transformers_generates_what_each_prompt_alone_gives(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    folders: list[Path] = []
    for name, overrides in (("mixed", [MIXED]), ("tied", ["model.head={type: language_model, tied: true}"])):
        lines: list[str] = []
        run = publish(tiny(f"name={name}", *overrides), tmp_path / name)
        folders.append(export(run, tmp_path / f"{name}_out", tell=lines.append))
        assert [line.partition(" ")[0] for line in lines[:2]] == ["standalone:", "transformers:"]
        assert all("padded" in line or "standalone" in line for line in lines[:2])
    again = [tmp_path / f"{folder.name}_again" for folder in folders]
    run_python(GENERATE, *[path for pair in zip(folders, again, strict=True) for path in pair], home=tmp_path / "hf")
    for folder, saved in zip(folders, again, strict=True):
        card = (folder / "README.md").read_text()
        module = next(folder.glob("modeling_*.py"))
        assert "## Structure" in card
        assert module.name in card
        import_file(module, f"{module.stem}_saved").load(saved)  # whose names begin with "model."


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama2_tiny", "deit_tiny", "mamba_tiny", "mamba2_tiny", "rwkv4_tiny"])
def test_native_is_a_type_of_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(exporting, "prove", prove_here)
    lines: list[str] = []
    export(publish(load(name), tmp_path / "run"), tmp_path / "out", ["native"], tell=lines.append)
    assert lines[0] == "proved here"


TIED = "{type: adaptive, tied: true}"
ADAPTIVE = "model.embedding={type: adaptive, cutoffs: [100, 200]}"
HEADS = {
    "adaptive": [ADAPTIVE, f"model.head={TIED}"],
    "factored": ["model.head={type: factored, rank: 8}"],
    "multi_token": [ADAPTIVE, f"model.head={{type: multi_token, layer: {{type: block, {MEGA[1:]}, head: {TIED}}}"],
}


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_is_no_single_matrix_leaves_for_transformers(
    head: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(exporting, "prove", prove_here)
    run = publish(tiny(f"name=head_{head}", *HEADS[head]), tmp_path / "run")
    lines: list[str] = []
    export(run, tmp_path / "out", ["transformers"], tell=lines.append)
    assert lines[:2] == ["proved here"] * 2


@pytest.mark.slow
def test_an_export_that_differs_is_not_left_behind(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = publish(tiny(), tmp_path / "run")
    wrong = write_weights

    def write_wrong(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        wrong(folder, {name: tensor * 1.01 for name, tensor in tensors.items()})

    monkeypatch.setattr("archlab.interop.exporting.formats.standalone.write_weights", write_wrong)
    with pytest.raises(ArchlabError, match=r"standalone: its (whole|row|steps) logits differ from the model's by \d"):
        export(run, tmp_path / "out", ["standalone"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_missing_package_is_reported(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = read_model(publish(tiny(), tmp_path / "run"))
    with caplog.at_level(logging.WARNING):
        assert "not proved" in prove("odd", tmp_path, "NEEDS = ('no_such_package',)", expected_logits(model))


@pytest.mark.slow
def test_an_export_that_needs_archlab_fails_its_proof(tmp_path: Path) -> None:
    inputs = torch.zeros(2, 3)
    given = {"inputs": inputs, "row": inputs[1:].clone(), "num_threads": torch.tensor(1)}
    loader = "def load(folder):\n    import archlab.errors\n"
    with pytest.raises(ArchlabError) as error:
        prove("odd", tmp_path, loader, Expected(given, {"whole": inputs, "row": inputs[1:]}))
    assert str(error.value) == "odd: does not load without archlab: ImportError: archlab: an export must not import it"


@pytest.mark.parametrize(
    ("actual", "problem"),
    [
        (torch.zeros(2, 1), "have shape [2, 1], not [2, 3]"),
        (torch.full((2, 3), torch.nan), "differ from the model's by nan, above 1.0e-01"),
    ],
)
def test_logits_of_an_export_that_are_others_are_told(actual: torch.Tensor, problem: str) -> None:
    with pytest.raises(ArchlabError) as error:
        _difference("odd", "whole", actual, torch.zeros(2, 3), 0.1)
    assert str(error.value) == f"odd: its whole logits {problem}"


@pytest.mark.parametrize(
    ("name", "overrides", "problem"),
    [
        ("deit_tiny", [], "model.embedding 'patches' reads no tokens"),
        ("llama2_tiny", ["model.head={type: classifier, num_outputs: 3}"], "model.head gives one answer per sample"),
        (
            "llama2_tiny",
            ["model.layers[*].mixer.attention=bidirectional"],
            "the model sees later tokens",
        ),
    ],
)
def test_what_is_no_language_model_is_none_of_transformers(name: str, overrides: list[str], problem: str) -> None:
    model = ExportedModel(Path(), load(name, overrides), {})
    with pytest.raises(ArchlabError) as error:
        make_formats(["transformers"], {})["transformers"].check(model)
    assert str(error.value).startswith(f"transformers: {problem}, where AutoModelForCausalLM has tokens in and logits")


def test_a_portable_program_is_one_of_avx2(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr("archlab.interop.exporting.formats.pt2.has_cpp_compiler", lambda: True)
    model = ExportedModel(Path(), tiny(), {})
    with pytest.raises(ArchlabError, match="pt2: portable is for processors with AVX2, and this is aarch64"):
        make_formats(["pt2"], {"portable": True})["pt2"].check(model)


def test_formats_are_found_by_name() -> None:
    assert {"standalone", "transformers", "native"} <= set(format_names())
    assert list(make_formats(["transformers"], {})) == ["standalone", "transformers"]
    with pytest.raises(ArchlabError, match="no export format 'stand_alone'; did you mean 'standalone'"):
        make_formats(["stand_alone"], {})
    with pytest.raises(ArchlabError, match="native needs a directory of its own, without standalone"):
        make_formats(["native", "standalone"], {})
    with pytest.raises(ArchlabError, match="portable: none of the formats standalone has this option"):
        make_formats(["standalone"], {"portable": True})


def test_a_model_that_no_type_has_is_refused_by_name(tiny: Tiny, tmp_path: Path) -> None:
    run = publish(tiny(MIXED), tmp_path / "run")
    with pytest.raises(ArchlabError, match=r"the model is no llama: .*mixer.*megalodon"):
        export(run, tmp_path / "out", ["native"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_large_weights_are_sharded_and_read_again(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = publish(tiny(), tmp_path / "run")
    monkeypatch.setattr(weight_files.write_weights, "__defaults__", (20_000,))
    out = export(run, tmp_path / "out", ["standalone"])
    shards = sorted(out.glob("model-*.safetensors"))
    assert len(shards) > 1
    places = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert {name: places[name] for file in shards for name in load_file(file)} == places
    again = f"train.start_from={json.dumps({'checkpoint': str(out)})}"
    archlab.show(tiny(again))
    damaged = shards[0].read_bytes()
    shards[0].write_bytes(damaged[:-4] + b"ruin")
    module = import_file(out / "modeling_tiny.py", "modeling_tiny_of_shards")
    with pytest.raises(ValueError, match=rf"{shards[0].name}: has changed since it was written"):
        module.load(out)
    places["x"] = "../elsewhere"
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ValueError, match=r"has no file '\.\./elsewhere'"):
        module.load(out)
    with pytest.raises(ArchlabError, match=r"names '\.\./elsewhere', which is not a file beside it"):
        archlab.show(tiny(again))


@pytest.mark.slow
@pytest.mark.usefixtures("unproved")
def test_weights_that_do_not_fit_are_named(tiny: Tiny, tmp_path: Path) -> None:
    out = export(publish(tiny(), tmp_path / "run"), tmp_path / "out", ["standalone"])
    (out / "manifest.json").unlink()
    module = import_file(out / "modeling_tiny.py", "modeling_tiny_misfit")
    tensors = load_file(out / "model.safetensors")
    name = "embedding.weight"
    save_file({**tensors, name: tensors[name][:3].clone()}, out / "model.safetensors")
    with pytest.raises(ValueError, match=rf"{name} has shape \[3, "):
        module.load(out)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, out / "model.safetensors")
    with pytest.raises(ValueError, match=name):
        module.load(out)


def test_the_words_of_a_vocabulary_are_read_as_they_were(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from archlab.data.tokenizers.word import WordTokenizer

    own = WordTokenizer(b"the cat sat\non the mat", 9)
    made = hf_tokenizer_files(own.model_tokens(), special_tokens(own.model_tokens()))
    theirs = tokenizers.Tokenizer.from_str(made["tokenizer.json"].decode())
    for text in ("the cat\nsat on a mat", "mat", "the  the"):
        assert theirs.encode(text).ids == own.encode(text)


def test_a_tokenizer_adds_what_the_model_was_trained_with(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    from archlab.data.tokenizers.hugging_face import HuggingFaceTokenizer
    from archlab.storage.model_tokens import read_tokens

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "<bos>": 2}, "a"))
    made.add_special_tokens(["<bos>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    made.save(str(tmp_path / "tokenizer.json"))
    for special, ids in ((False, [1]), (True, [2, 1])):
        tokens = HuggingFaceTokenizer(str(tmp_path / "tokenizer.json"), special).model_tokens()
        out = tmp_path / str(special)
        out.mkdir()
        for name, data in {**token_files(tokens), **hf_tokenizer_files(tokens, special_tokens(tokens))}.items():
            (out / name).write_bytes(data)
        assert tokenizers.Tokenizer.from_file(str(out / "tokenizer.json")).encode("b").ids == ids
        again = read_tokens(out)
        assert again is not None
        assert (again.sha256, again.special_tokens, again.before) == (tokens.sha256, special, ("<bos>",))


@pytest.mark.parametrize(
    ("plain", "problem"),
    [
        ({"kind": "tokenizer"}, "out: holds no tokenizer.json; save the tokenizer beside the model"),
        ({"kind": "words"}, "out/tokenizer.json: holds no words; save the tokenizer beside the model"),
    ],
)
def test_a_tuned_model_without_its_tokenizer_is_told(plain: dict[str, str], problem: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchlabError) as error:
        read_tuned_tokens(tmp_path / "out", plain, 300)
    assert str(error.value) == f"{tmp_path}/{problem}"
