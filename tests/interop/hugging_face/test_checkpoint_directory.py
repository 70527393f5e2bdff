"""Checkpoint directories are read completely, or refused by the name of the file, field or tensor."""

import json
from pathlib import Path

import pytest
import torch
from hugging_face_helpers import add_noise, random_tokens, transformers
from safetensors.torch import load_file, save_file

from archlab import ArchlabError, api
from archlab.config import experiment
from archlab.config.spec import parse
from archlab.interop import describe_pretrained, import_checkpoint, load_pretrained, save_pretrained
from archlab.interop.hugging_face.config_json import find_model_type
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
    with pytest.raises(ArchlabError, match=r"index\.json: names 'b\.safetensors', which is not a file beside it"):
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


def change(folder: Path, **tensors: torch.Tensor) -> None:
    """Add tensors to a checkpoint, or replace those of the same name; `__` stands for a dot."""
    changed = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file(load_file(folder / "model.safetensors") | changed, folder / "model.safetensors")


def test_a_tied_head_that_differs_is_refused(folder: Path) -> None:
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change(folder, lm_head__weight=embedding + 1)
    problem = r"'lm_head\.weight' and 'model\.embed_tokens\.weight' differ, and config\.json \(tie_word_embeddings"
    with pytest.raises(ArchlabError, match=problem):
        load_pretrained(folder)
    edit(folder, tie_word_embeddings=False)
    assert not torch.equal(
        *(dict(load_pretrained(folder).named_parameters())[f"{k}.weight"] for k in ("head", "embedding"))
    )
    edit(folder, tie_word_embeddings=None)  # which transformers reads as false
    load_pretrained(folder)


def test_tensors_that_follow_from_the_configuration_pass_and_others_do_not(folder: Path) -> None:
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(3), model__position_ids=torch.arange(4))
    load_pretrained(folder)
    change(folder, model__layers__0__self_attn__q_norm__weight=torch.ones(6))
    with pytest.raises(ArchlabError, match=r"unknown tensor 'model\.layers\.0\.self_attn\.q_norm\.weight'"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.full((12,), torch.nan), "holds NaN, or values that are infinite in float32"),
        (torch.ones(12, dtype=torch.int8), "dtype int8 is not a floating-point type"),
        (
            torch.ones(12).to(torch.float8_e4m3fn),
            "tensor 'model.norm.weight' has dtype 'F8_E4M3', which is not one of F64",
        ),
        (torch.ones(1, 12), r"model\.norm\.weight: shape \(1, 12\) is not \(12,\)"),
    ],
)
def test_values_that_are_no_weights_are_named(folder: Path, value: torch.Tensor, problem: str) -> None:
    change(folder, model__norm__weight=value)
    with pytest.raises(ArchlabError, match=rf"model\.norm\.weight.*{problem}|{problem}"):
        load_pretrained(folder)


def test_no_value_is_rounded_unasked(folder: Path) -> None:
    precise = torch.linspace(0.9, 1.1, 12)
    halves = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halves | {"model.norm.weight": precise}, folder / "model.safetensors")
    assert torch.equal(dict(load_pretrained(folder).named_parameters())["norm.weight"], precise)
    change(folder, model__norm__weight=precise * 1e6)
    with pytest.raises(ArchlabError, match=r"'model\.norm\.weight' holds NaN, or values that are infinite in float16"):
        load_pretrained(folder, torch.float16)


def shards_of(folder: Path, weight_map: dict[str, str], shards: dict[str, list[str]]) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for file, names in shards.items():
        save_file({name: tensors[name].clone() for name in names}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_an_index_and_its_shards_agree(folder: Path) -> None:
    names = sorted(load_file(folder / "model.safetensors"))
    half, norm = names[: len(names) // 2], "model.norm.weight"
    index = dict.fromkeys(names, "b.safetensors") | dict.fromkeys(half, "a.safetensors")
    shards_of(folder, index, {"a.safetensors": [*half, norm], "b.safetensors": names[len(half) :]})
    with pytest.raises(
        ArchlabError, match=r"b\.safetensors: tensor 'model\.norm\.weight' is in a\.safetensors as well"
    ):
        load_pretrained(folder)
    save_file({}, folder / "model.safetensors")
    with pytest.raises(ArchlabError, match=r"holds model\.safetensors and the shards of .*; remove one of the two"):
        load_pretrained(folder)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_without_tensors_is_named(folder: Path, index: str) -> None:
    (folder / "model.safetensors.index.json").write_text(index)
    problem = r"index\.json: is not an index of tensors: it has no weight_map of texts$"
    with pytest.raises(ArchlabError, match=problem):
        load_pretrained(folder)


def test_weights_are_loaded_without_a_tokenizer_that_is_damaged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "tokenizer.json").write_text("{")
    assert load_pretrained(folder).tokens is None
    (warning,) = caplog.messages
    assert warning.startswith(f"{folder}/tokenizer.json: ")
    assert warning.endswith("; the model is loaded without it")
    with pytest.raises(ArchlabError, match=r"tokenizer\.json: "):
        import_checkpoint(folder, folder.parent / "out")


def test_an_index_that_names_other_shards(folder: Path) -> None:
    names = sorted(load_file(folder / "model.safetensors"))
    index = dict.fromkeys(names, "b.safetensors") | {names[0]: "a.safetensors"}
    shards_of(folder, index, {"a.safetensors": names[:2], "b.safetensors": names[2:]})
    with pytest.raises(ArchlabError, match=rf"index\.json: tensor '{names[1]}' is not in b\.safetensors"):
        load_pretrained(folder)
    del index[names[1]]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ArchlabError, match=rf"index\.json: lists no tensor '{names[1]}', which a\.safetensors holds"):
        load_pretrained(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    with pytest.raises(ArchlabError, match=r"names '\.\./a\.safetensors', which is not a file beside it"):
        load_pretrained(folder)


def test_what_belongs_to_other_libraries_is_refused(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"format": "tf"})
    with pytest.raises(ArchlabError, match=r"model\.safetensors: has the layout 'tf', which is not read"):
        load_pretrained(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ArchlabError, match=r"holds an adapter \(adapter_config\.json\), which is not applied"):
        load_pretrained(folder)


def test_a_field_that_stands_twice_is_refused(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"hidden_size": 24, ', 1))
    with pytest.raises(ArchlabError, match=r"config\.json: cannot be read: the key 'hidden_size' appears twice"):
        load_pretrained(folder)


def test_sizes_that_the_tensors_do_not_have_allocate_nothing(folder: Path) -> None:
    edit(folder, num_hidden_layers=4000)
    with pytest.raises(ArchlabError, match=r"tensor 'model\.layers\.2\..*' is missing"):
        load_pretrained(folder)
    edit(folder, num_hidden_layers=2, vocab_size=10**11)
    with pytest.raises(ArchlabError, match=r"embed_tokens\.weight: shape \(256, 12\) is not \(100000000000, 12\)"):
        load_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("llama2_tiny", "llama"),
        ("mistral_tiny", "mistral"),
        ("mixtral_tiny", "mixtral"),
        ("olmoe_tiny", "olmoe"),
        ("qwen2_moe_tiny", "qwen2_moe"),
        ("qwen3_tiny", "qwen3"),
        ("qwen3_moe_tiny", "qwen3_moe"),
        ("qwen3_next_tiny", "qwen3_next"),
        ("gpt_oss_tiny", "gpt_oss"),
        ("deepseek_v3_tiny", "deepseek_v3"),
        ("gemma_tiny", "gemma"),
        ("mpt_tiny", "mpt"),
        ("mamba_tiny", "mamba"),
        ("mamba2_tiny", "mamba2"),
        ("deit_tiny", "vit"),
    ],
)
def test_our_own_experiments_are_theirs_whether_a_knob_is_unset_or_not(
    name: str, model_type: str, tmp_path: Path
) -> None:
    ours = add_noise(build(experiment.load(name, ["model.layers[0].repeat=2"]).model))
    save_pretrained(ours, tmp_path / "saved")
    theirs = getattr(transformers, find_model_type(model_type, "").architecture).from_pretrained(tmp_path / "saved")
    inputs = torch.randn(2, 1, 8, 8) if model_type == "vit" else random_tokens(256)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(inputs).logits, ours(inputs)[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(load_pretrained(tmp_path / "saved")(inputs)[0], ours(inputs)[0], rtol=0, atol=1e-5)


def test_a_centered_scale_that_would_be_rounded_is_refused(tmp_path: Path) -> None:
    ours = build(experiment.load("mpt_tiny", ["model.layers[0].repeat=1"]).model).bfloat16()
    with pytest.raises(ArchlabError, match=r"1 \+ weight is rounded in torch\.bfloat16; save the model as float32"):
        save_pretrained(ours, tmp_path / "saved")


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
        ({"num_attention_heads": 2, "num_key_value_heads": 3}, r"config\.json gives no model: .*num_kv_heads"),
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
    with pytest.raises(ArchlabError, match="nowhere: is not a directory: give the directory"):
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


@pytest.mark.slow
def test_force_replaces_what_archlab_wrote_and_never_what_it_reads(folder: Path, tmp_path: Path) -> None:
    model, before = load_pretrained(folder), {path.name: path.read_bytes() for path in folder.iterdir()}
    for write, source in ((save_pretrained, model), (import_checkpoint, folder)):
        with pytest.raises(ArchlabError, match=r"llama: (is not empty|contains the source .*)"):
            write(source, folder, force=True)
        out = tmp_path / write.__name__
        write(source, out, force=True)
        write(source, out, force=True)
        (out / "model.safetensors").write_bytes(b"fine-tuned since")
        with pytest.raises(ArchlabError, match=r"model\.safetensors has 16 bytes .* since archlab wrote it"):
            write(source, out, force=True)
    with pytest.raises(ArchlabError, match=r"below: is inside the source .*; choose"):
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
    reason = r"the model is no \w+: [^;]+"
    message = rf"transformers has no such model among its \d+ types that are known: {reason}; {reason}; {reason}$"
    with pytest.raises(ArchlabError, match=message) as error:
        save_pretrained(model, tmp_path / "new")
    assert "the model is no llama: layers[0].mixer.type is 'attention' there and 'megalodon' here" in str(error.value)
    with pytest.raises(ArchlabError, match=r"the model is no falcon_h1: it has no 'first'$"):
        save_pretrained(model, tmp_path / "new", "falcon_h1")


@pytest.mark.slow
def test_an_imported_checkpoint_is_one_of_ours(folder: Path, tmp_path: Path, text: Path) -> None:
    out = import_checkpoint(folder, tmp_path / "out", tokenizer="bytes")
    imported, model = load_trained(out)
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[0], load_pretrained(folder)(tokens)[0], rtol=0, atol=0)
    assert imported.task.name == "no_data"
    assert len("".join(api.generate(out, "abc", max_new_tokens=5, temperature=0.0))) > 0
    with pytest.raises(ArchlabError, match="an imported model has no data of its own"):
        api.evaluate(out)
    found = api.evaluate(out, [f"task={{type: text, path: {text}}}", "train.context=16"], max_tokens=64)
    assert found.tokens == 64
    with pytest.raises(ArchlabError, match=r"model\.dim: cannot be changed: the model is trained"):
        api.evaluate(out, ["model.dim=4"])
    with pytest.raises(ArchlabError, match="is not empty"):
        import_checkpoint(folder, out)
    assert api.export(out, tmp_path / "standalone", to=["standalone"]).is_dir()
