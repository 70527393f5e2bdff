"""The config.json of published models: read as it is, and at small sizes the same logits as transformers'."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face_helpers import add_noise, random_tokens, transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archlab import ArchlabError
from archlab.interop import describe_pretrained, load_pretrained
from archlab.interop.hugging_face.config_json import find_model_type

PUBLISHED = json.loads((Path(__file__).parents[2] / "golden" / "published_configs.json").read_text())
# Sizes that the tests change, wherever a configuration has them; every other field stays.
DECODER = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
SMALL: dict[str, dict[str, Any]] = {
    "llama": DECODER,
    "mistral": DECODER | {"sliding_window": 5},
    "mixtral": DECODER | {"num_local_experts": 3},
    "olmoe": DECODER | {"num_experts": 11},
    "qwen2_moe": DECODER | {"num_experts": 11, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12},
    "qwen3_moe": DECODER | {"num_experts": 11, "moe_intermediate_size": 12},
    "gpt_oss": DECODER | {"num_local_experts": 7, "sliding_window": 5, "num_hidden_layers": 24},
    "deepseek_v3": DECODER
    | {"num_hidden_layers": 4, "kv_lora_rank": 12, "q_lora_rank": 20, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}
    | {"v_head_dim": 8, "moe_intermediate_size": 12, "n_routed_experts": 16},
    "qwen3_next": DECODER
    | {"num_hidden_layers": 5, "num_experts": 11, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12}
    | {"linear_key_head_dim": 8, "linear_value_head_dim": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    "kimi_linear": DECODER
    | {"num_hidden_layers": 5, "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    | {"num_experts": 11, "moe_intermediate_size": 12}
    | {
        "linear_attn_config": {"full_attn_layers": [4, 5], "kda_layers": [1, 2, 3]}
        | {"head_dim": 8, "num_heads": 3, "short_conv_kernel_size": 4}
    },
    "gemma": DECODER,
    "gemma2": DECODER | {"sliding_window": 5, "query_pre_attn_scalar": 7},
    "gemma3_text": DECODER | {"sliding_window": 5, "num_hidden_layers": 7},
    "qwen3": DECODER,
    "mamba": {"hidden_size": 24, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 2, "intermediate_size": 48},
    "mamba2": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "num_heads": 8, "head_dim": 8},
    "mpt": {"d_model": 24, "n_heads": 4, "n_layers": 2},
    "rwkv": {"hidden_size": 16, "attention_hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 7},
    "vit": {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4},
    "deit": {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4},
}
SHARED = {"vocab_size": 37, "image_size": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
every_config = pytest.mark.parametrize("name", PUBLISHED)


def small(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with small sizes and every other field as it is published; key heads stay a part."""
    sizes = SMALL[config["model_type"]] | SHARED
    shrunk = config | {field: size for field, size in sizes.items() if config.get(field) is not None}
    heads = config.get("num_key_value_heads")
    if heads is not None:
        shrunk["num_key_value_heads"] = 4 if heads == config["num_attention_heads"] else min(heads, 2)
    return shrunk


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@every_config
def test_the_published_file_is_read(name: str, tmp_path: Path) -> None:
    layers = describe_pretrained(write_config(tmp_path, PUBLISHED[name])).knobs["layers"]
    config = PUBLISHED[name]
    assert sum(layer.repeat for layer in layers) == config.get("num_hidden_layers", config.get("n_layers"))


@pytest.mark.slow
# transformers warns of the null that Kimi Linear's file has, though its class has no positions.
@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
@every_config
@torch.no_grad()
def test_small_models_of_published_files_give_the_same_logits(name: str, tmp_path: Path) -> None:
    config = small(PUBLISHED[name])
    cls = getattr(transformers, find_model_type(config["model_type"], "").architecture)
    write_config(tmp_path, config)
    torch.manual_seed(0)
    theirs = add_noise(cls(cls.config_class.from_pretrained(tmp_path)), scale=0.05)
    theirs.save_pretrained(tmp_path)
    write_config(tmp_path, config)  # over the one that transformers wrote
    inputs = torch.randn(2, 3, 64, 64) if "image_size" in config else random_tokens(37, 11)
    torch.testing.assert_close(load_pretrained(tmp_path)(inputs)[0], theirs(inputs).logits, rtol=0, atol=2e-5)


LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}
TWO_ROPES = {"full_attention": {"rope_type": "default"}, "cross_attention": {"rope_type": "default"}}
STORYWRITER = PUBLISHED["mosaicml/mpt-7b"]["attn_config"] | {"alibi_bias_max": 16}


@pytest.mark.parametrize(
    ("name", "fields", "problem"),
    [
        (
            "Meta-Llama-3-8B",
            {"rope_scaling": LLAMA3 | {"rope_type": "longrope"}},
            "rope_scaling .*only rope_type 'default' or 'linear' or 'llama3' or 'yarn' is",
        ),
        (
            "Meta-Llama-3-8B",
            {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}},
            "rope_scaling .*: 'high_freq_factor' is missing",
        ),
        (
            "Llama-2-7b-hf",
            {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"type": "linear", "factor": 2.0}},
            "rope_parameters and rope_scaling are one value",
        ),
        (
            "Llama-2-7b-hf",
            {"rope_scaling": {"type": "linear", "factor": 4.0, "low_freq_factor": 1.0}},
            "rope_scaling .*only rope_type 'linear' without low_freq_factor is",
        ),
        ("SmolLM2-135M", {"rope_interleaved": True}, "rope_interleaved True: not represented, only False is"),
        (
            "SmolLM2-135M",
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e5}},
            "rope_theta 10000.0 and .* one value",
        ),
        ("SmolLM2-135M", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5: not represented, only 1 is"),
        (
            "SmolLM2-135M",
            {"attn_logit_softcapping": 50.0},
            "unknown field 'attn_logit_softcapping', here 50.0; it passes at null",
        ),
        ("SmolLM2-135M", {"use_qk_norm": True}, "unknown field 'use_qk_norm', here True; it passes at"),
        ("SmolLM2-135M", {"parallel_attn": True}, "unknown field 'parallel_attn', here True; it passes at false"),
        ("SmolLM2-135M", {"is_causal": False}, "unknown field 'is_causal', here False"),
        ("SmolLM2-135M", {"tie_word_embedding": False}, "unknown field .* did you mean 'tie_word_embeddings'"),
        ("SmolLM2-135M", {"resid_dropout": 0.1}, "unknown field 'resid_dropout', here 0.1; it passes at 0"),
        (
            "SmolLM2-135M",
            {"layer_types": ["full_attention", "sliding_attention"] * 15},
            "layer_types .*only 'full_attention'",
        ),
        (
            "SmolLM2-135M",
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "quantization_config: quantized weights",
        ),
        (
            "SmolLM2-135M",
            {"quantization": {"group_size": 64, "bits": 4}},
            "quantization: quantized weights are not read",
        ),
        ("SmolLM2-135M", {"num_hidden_layers": 1.5}, "num_hidden_layers 1.5 is not a whole number"),
        (
            "SmolLM2-135M",
            {"num_hidden_layers": 2**70},
            "num_hidden_layers 1,180,591,620,717,411,303,424 is above 100,000",
        ),
        ("SmolLM2-135M", {"num_hidden_layers": True}, "num_hidden_layers True is not a whole number"),
        ("SmolLM2-135M", {"tie_word_embeddings": "yes"}, "tie_word_embeddings 'yes' is not true or false"),
        ("SmolLM2-135M", {"num_attention_heads": 0}, "config.json: "),
        ("Qwen3-0.6B", {"layer_types": ["full_attention"]}, "layer_types has 1 entries for num_hidden_layers 28"),
        (
            "Qwen3-0.6B",
            {"layer_types": ["chunked_attention"] * 28},
            "layer_types 'chunked_attention': not represented, only 'full_attention' are",
        ),
        (
            "Qwen3-0.6B",
            {"layer_types": ["sliding_attention"] * 28, "sliding_window": 5},
            "layer_types has 'sliding_attention', and use_sliding_window False",
        ),
        (
            "Qwen3-30B-A3B",
            {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["full_attention"] * 48},
            "layer_types .*only 'sliding_attention' for every layer is",
        ),
        ("Qwen3-30B-A3B", {"mlp_only_layers": ["0"]}, "mlp_only_layers \\['0'\\] is not a list of whole numbers"),
        ("Qwen3-30B-A3B", {"decoder_sparse_step": 0}, "config.json: a field has an invalid value"),
        ("Qwen3-30B-A3B", {"num_local_experts": 64}, "num_experts 128 and num_local_experts 64 are one value"),
        ("Qwen3-Coder-30B-A3B-Instruct", {"use_qk_norm": False}, "use_qk_norm False: not represented, only True is"),
        (
            "Qwen3-Coder-30B-A3B-Instruct",
            {"shared_expert_intermediate_size": 768},
            "shared_expert_intermediate_size 768: not represented, only 0 is",
        ),
        ("OLMoE-1B-7B-0924", {"head_dim": 64}, "head_dim 64: not represented, only hidden_size / num_attention_heads"),
        ("gemma-2-2b", {"use_bidirectional_attention": True}, "use_bidirectional_attention True: not represented"),
        ("gemma-3-1b-pt", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0: not represented"),
        ("gemma-3-1b-pt", {"rope_parameters": TWO_ROPES}, "'cross_attention' is not a kind of layer"),
        ("mpt-7b", {"attn_config": STORYWRITER}, "attn_config.alibi_bias_max 16: not represented, only 8 is"),
        ("mpt-7b", {"attn_config": {"clip_qkv": 6}}, "attn_config.clip_qkv 6: not represented, only None is"),
        ("mpt-7b", {"attn_config": {"alibi_bias": 16}}, "attn_config: unknown field 'alibi_bias', here 16"),
        ("mpt-7b", {"hidden_size": 64}, "d_model 4096 and hidden_size 64 are one value"),
        (
            "mamba-130m-hf",
            {"intermediate_size": 1537},
            "intermediate_size 1537: not represented, it is not a multiple of hidden_size 768",
        ),
        (
            "Mamba-Codestral-7B-v0.1",
            {"num_heads": 127},
            "num_heads 127 of 64 do not fill expand \\* hidden_size, 8192",
        ),
        ("mamba-130m-hf", {"rms_norm": False}, "rms_norm False: not represented, only True is"),
        ("Mamba-Codestral-7B-v0.1", {"time_step_limit": [0.001, 0.1]}, "time_step_limit .*not represented"),
        ("vit-base-patch16-224", {"num_labels": 5}, "id2label of 3 labels and num_labels 5 are one value"),
    ],
)
def test_what_changes_the_model_is_refused_by_name(
    name: str, fields: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    config = next(config for full, config in PUBLISHED.items() if full.endswith(f"/{name}"))
    with pytest.raises(ArchlabError, match=problem):
        describe_pretrained(write_config(tmp_path, config | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"use_sliding_window": False, "parallel_attn": False, "clip_qkv": None, "pruned_heads": {}, "resid_pdrop": 0},
        {"rope_scaling": {"type": "linear", "factor": 1.0}, "layer_types": ["full_attention"] * 30},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 100000, "partial_rotary_factor": 1.0}},
        {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_length": 4096, "repetition_penalty": 1.1},
    ],
)
def test_a_feature_that_is_off_and_a_setting_of_generation_pass(fields: dict[str, Any], tmp_path: Path) -> None:
    config = PUBLISHED["HuggingFaceTB/SmolLM2-135M"]
    expected = describe_pretrained(write_config(tmp_path, config))
    assert describe_pretrained(write_config(tmp_path, config | fields)) == expected


ODD = st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | st.text(max_size=3)
ODD = ODD | st.lists(ODD, max_size=3) | st.dictionaries(st.text(max_size=3), ODD, max_size=2)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_values_are_a_model_or_refused_in_one_line(data: st.DataObject, tmp_path: Path) -> None:
    config = PUBLISHED[data.draw(st.sampled_from(sorted(PUBLISHED)))]
    fields = data.draw(st.lists(st.sampled_from([*sorted(config), "rope_parameters", "layer_types", "x"]), max_size=2))
    write_config(tmp_path, config | {field: data.draw(ODD) for field in fields})
    try:
        describe_pretrained(tmp_path)
    except ArchlabError as error:
        problem = str(error)
    else:
        return
    assert "config.json" in problem
    assert "\n" not in problem
