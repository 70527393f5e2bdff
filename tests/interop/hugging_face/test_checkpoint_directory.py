"""Checkpoint directories are read completely, or refused by the name of the file, field or tensor."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from archlab import ArchlabError, api
from archlab.config.spec import parse
from archlab.interop import describe_pretrained, import_checkpoint, load_pretrained, save_pretrained
from archlab.modeling.build import build
from archlab.storage.trained_model import load_trained

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 256,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "rope_theta": 1e4,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint directory as transformers would write it."""
    place = tmp_path / "llama"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(CONFIG))
    save_pretrained(build(describe_pretrained(place)), tmp_path / "again", "llama")
    (tmp_path / "again" / "model.safetensors").rename(place / "model.safetensors")
    return place


def edit(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


def test_shards_are_read_like_one_file(folder: Path) -> None:
    whole, tokens = load_pretrained(folder), torch.arange(9)[None]
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in shards.items():
        save_file({name: tensors[name] for name in some}, folder / file)
    index = {"weight_map": {name: file for file, some in shards.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with torch.no_grad():
        torch.testing.assert_close(load_pretrained(folder)(tokens)[0], whole(tokens)[0], rtol=0, atol=0)
    (folder / "b.safetensors").unlink()
    with pytest.raises(ArchlabError, match=r"index\.json: names 'b\.safetensors', which is no file beside it"):
        load_pretrained(folder)


def test_tensors_keep_their_type_unless_asked(folder: Path) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors")
    assert {p.dtype for p in load_pretrained(folder).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_pretrained(folder, torch.float64).parameters()} == {torch.float64}


def test_a_tied_head_may_be_stored_twice(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, folder / "model.safetensors")
    load_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"model_type": "lama"}, r"config\.json: no model_type 'lama'; did you mean 'llama'\?"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, r"rope_scaling \{'type': 'dynamic'.*: not represented"),
        ({"attn_logit_softcapping": 50.0}, r"unknown field 'attn_logit_softcapping', here 50\.0"),
        (
            {"num_attention_head": 3},
            r"unknown field 'num_attention_head', here 3; did you mean 'num_attention_heads'\?",
        ),
        ({"num_attention_heads": 5}, r"k_proj\.weight: shape \(12, 12\) is not \(10, 12\)"),
        ({"hidden_size": "many"}, r"config\.json: "),
        ({"hidden_size": -4}, r"config\.json: gives no model: .*-4"),
        ({"vocab_size": 255}, r"model\.embed_tokens\.weight: shape \(256, 12\) is not \(255, 12\)"),
        ({"num_hidden_layers": 3}, r"tensor 'model\.layers\.2\..*' is missing"),
        ({"num_hidden_layers": 1}, r"unknown tensor 'model\.layers\.1\..*'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(folder: Path, fields: dict[str, object], problem: str) -> None:
    edit(folder, **fields)
    with pytest.raises(ArchlabError, match=problem):
        load_pretrained(folder)


def test_files_that_cannot_be_used_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchlabError, match="nowhere: is no directory: give the directory"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(ArchlabError, match=r"holds no config\.json"):
        load_pretrained(tmp_path)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for cut in (0, 7, 100, len(whole) - 1):
        weights.write_bytes(whole[:cut])
        with pytest.raises(ArchlabError, match=r"model\.safetensors: truncated, or not a safetensors file"):
            load_pretrained(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ArchlabError, match=r"holds no model\.safetensors; \*\.bin is pickled, which runs code"):
        load_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ArchlabError, match=r"config\.json: cannot be read"):
        load_pretrained(folder)


def test_a_folder_is_not_overwritten_unasked(folder: Path, tmp_path: Path) -> None:
    model = load_pretrained(folder)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("")
    with pytest.raises(ArchlabError, match="is not empty"):
        save_pretrained(model, tmp_path / "taken", "llama")
    with pytest.raises(ArchlabError, match="was not built from a spec"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path / "new", "llama")
    with pytest.raises(ArchlabError, match="the model is no mpt: "):
        save_pretrained(model, tmp_path / "new", "mpt")


def test_force_replaces_what_archlab_wrote_and_never_what_it_reads(folder: Path, tmp_path: Path) -> None:
    model, before = load_pretrained(folder), {path.name: path.read_bytes() for path in folder.iterdir()}
    for write, source in ((save_pretrained, model), (import_checkpoint, folder)):
        with pytest.raises(ArchlabError, match=r"llama: (is not empty|holds .*, which is read)"):
            write(source, folder, force=True)
        out = tmp_path / write.__name__
        write(source, out, force=True)
        write(source, out, force=True)
        (out / "model.safetensors").write_bytes(b"fine-tuned since")
        with pytest.raises(ArchlabError, match=r"model\.safetensors has 16 bytes .* since archlab wrote it"):
            write(source, out, force=True)
    with pytest.raises(ArchlabError, match=r"below: lies in .*, which is read"):
        import_checkpoint(folder, folder / "below", force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_type_need_not_be_named(folder: Path, tmp_path: Path) -> None:
    save_pretrained(load_pretrained(folder), tmp_path / "new")
    assert json.loads((tmp_path / "new" / "config.json").read_text())["model_type"] == "llama"


def test_a_hybrid_is_no_llama(tmp_path: Path) -> None:
    layers = [{"mixer": {"type": "megalodon", "shared_dim": 4, "value_dim": 8}, "ffn": {"type": "swiglu"}}]
    model = build(parse({"type": "stack", "vocab_size": 9, "dim": 8, "layers": layers}, "backbone", "model"))
    with pytest.raises(ArchlabError, match="the model is no llama: "):
        save_pretrained(model, tmp_path / "new", "llama")
    with pytest.raises(ArchlabError, match=r"transformers has no such model: the model is no deit: .*no vit: "):
        save_pretrained(model, tmp_path / "new")


@pytest.mark.slow
def test_an_imported_checkpoint_is_one_of_ours(folder: Path, tmp_path: Path, text: Path) -> None:
    out = import_checkpoint(folder, tmp_path / "out", tokenizer="bytes")
    experiment, model = load_trained(out)
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[0], load_pretrained(folder)(tokens)[0], rtol=0, atol=0)
    assert experiment.task.name == "no_data"
    assert len("".join(api.generate(out, "abc", max_new_tokens=5, temperature=0.0))) > 0
    with pytest.raises(ArchlabError, match="an imported model has no data of its own"):
        api.evaluate(out)
    found = api.evaluate(out, [f"task={{type: text, path: {text}}}", "train.context=16"], max_tokens=64)
    assert found.tokens == 64
    with pytest.raises(ArchlabError, match=r"model\.dim: cannot be changed: the model is trained"):
        api.evaluate(out, ["model.dim=4"])
    with pytest.raises(ArchlabError, match="is not empty"):
        import_checkpoint(folder, out)
    assert api.export(out, tmp_path / "standalone").is_dir()
