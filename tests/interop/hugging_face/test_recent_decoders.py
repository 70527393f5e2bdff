"""gpt-oss, DeepSeek-V3, DiffLlama, Qwen2-MoE and Qwen3-Next of transformers, in odd shapes, both ways, in float64."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from float64_helpers import EAGER, Wide, assert_same_in_float64, wide_model
from hugging_face_helpers import random_tokens, transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from archlab import ArchlabError
from archlab.interop import describe_pretrained, load_pretrained, save_pretrained

SIZES = {
    "vocab_size": 37,
    "hidden_size": 36,
    "intermediate_size": 13,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": None,
    "pad_token_id": None,
}
SLOW = {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 300.0,
    "factor": 4.0,
    "beta_fast": 8.0,
    "truncate": False,
    "original_max_position_embeddings": 16,
}
GPT_OSS = {"head_dim": 10, "num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 5}
DEEPSEEK = {
    "num_key_value_heads": 6,
    "q_lora_rank": 13,
    "kv_lora_rank": 7,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 9,
    "n_routed_experts": 6,
    "n_group": 3,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
    "first_k_dense_replace": 1,
}
DELTA = {
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 7,
    "linear_conv_kernel_dim": 3,
}
QWEN = DELTA | {
    "head_dim": 8,
    "num_experts": 5,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
    "shared_expert_intermediate_size": 11,
}
QWEN2_MOE = {name: QWEN[name] for name in QWEN if "linear" not in name and name != "head_dim"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-oss": ("GptOss", GPT_OSS | {"swiglu_limit": 0.3, "swiglu_alpha": 3.1}),
    "gpt-oss-tied-without-bias": (
        "GptOss",
        GPT_OSS
        | SLOW
        | {"attention_bias": False, "tie_word_embeddings": True, "num_key_value_heads": 1, "rms_norm_eps": 1e-3},
    ),
    "gpt-oss-listed": (
        "GptOss",
        GPT_OSS
        | {"layer_types": ["full_attention", "full_attention", "sliding_attention"], "rope_parameters": YARN}
        | {"num_experts_per_tok": 1, "swiglu_limit": 0.1, "sliding_window": 2},
    ),
    "gpt-oss-no-window": ("GptOss", GPT_OSS | SLOW | {"layer_types": ["full_attention"] * 3, "num_local_experts": 3}),
    "deepseek-v3": ("DeepseekV3", DEEPSEEK | SLOW),
    "deepseek-v3-sharper-without-query-latent": (
        "DeepseekV3",
        DEEPSEEK
        | {"q_lora_rank": None, "attention_bias": True, "tie_word_embeddings": True, "rope_interleave": False}
        | {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.7}, "first_k_dense_replace": 0}
        | {"n_group": 1, "topk_group": 1, "norm_topk_prob": False, "routed_scaling_factor": 1.3},
    ),
    "deepseek-v3-two-shared-biased": (
        "DeepseekV3",
        DEEPSEEK
        | {"attention_bias": True, "n_shared_experts": 2, "first_k_dense_replace": 2, "rms_norm_eps": 1e-3}
        | {"rope_parameters": YARN | {"mscale_all_dim": 1.0}, "n_group": 2, "topk_group": 1},
    ),
    "deepseek-v3-dense": ("DeepseekV3", DEEPSEEK | SLOW | {"first_k_dense_replace": 3, "num_attention_heads": 6}),
    "diffllama": ("DiffLlama", {"num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 6} | SLOW),
    "diffllama-one-pair-biased": (
        "DiffLlama",
        {"attention_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-3, "rope_parameters": YARN},
    ),
    "diffllama-own-keys": ("DiffLlama", {"num_key_value_heads": 6, "head_dim": 10, "num_hidden_layers": 4}),
    "qwen2-moe": ("Qwen2Moe", QWEN2_MOE | SLOW),
    "qwen2-moe-windows-in-turn": (
        "Qwen2Moe",
        QWEN2_MOE
        | {"num_hidden_layers": 5, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 4}
        | {"decoder_sparse_step": 2, "norm_topk_prob": True, "tie_word_embeddings": True, "rope_parameters": YARN},
    ),
    "qwen2-moe-listed-unbiased": (
        "Qwen2Moe",
        QWEN2_MOE
        | {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"], "use_sliding_window": True}
        | {"sliding_window": 3, "qkv_bias": False, "mlp_only_layers": [1], "head_dim": 10, "rms_norm_eps": 1e-3},
    ),
    "qwen2-moe-dense": ("Qwen2Moe", QWEN2_MOE | {"num_experts": 0, "num_key_value_heads": 6}),
    "qwen3-next": ("Qwen3Next", QWEN | {"num_hidden_layers": 5}),
    "qwen3-next-listed-biased": (
        "Qwen3Next",
        QWEN
        | {"layer_types": ["full_attention", "linear_attention", "full_attention"], "attention_bias": True}
        | {"linear_num_value_heads": 3, "tie_word_embeddings": True, "norm_topk_prob": False, "rms_norm_eps": 1e-3}
        | {"rope_parameters": YARN | {"partial_rotary_factor": 0.75}, "mlp_only_layers": [1]},
    ),
    "qwen3-next-every-second-layer": (
        "Qwen3Next",
        QWEN
        | {"decoder_sparse_step": 2, "layer_types": ["linear_attention"] * 3, "linear_conv_kernel_dim": 1}
        | {"linear_num_key_heads": 1},
    ),
    "qwen3-next-dense": (
        "Qwen3Next",
        QWEN | {"layer_types": ["full_attention"] * 3, "num_experts": 0, "head_dim": 10} | SLOW,
    ),
}
TYPES = {
    "GptOss": "gpt_oss",
    "Qwen2Moe": "qwen2_moe",
    "DeepseekV3": "deepseek_v3",
    "DiffLlama": "diffllama",
    "Qwen3Next": "qwen3_next",
}
every_case = pytest.mark.parametrize(("system", "own"), CASES.values(), ids=CASES)


def model_of(system: str, own: dict[str, Any]) -> nn.Module:
    fields = deepcopy(SIZES | EAGER | own)  # their configurations write into the mappings that they are given
    config = getattr(transformers, f"{system}Config")(**fields)
    theirs = wide_model(getattr(transformers, f"{system}ForCausalLM"), config)
    for name, buffer in theirs.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.linspace(-0.3, 0.3, len(buffer)))
    return theirs


@pytest.mark.slow
@every_case
def test_logits_agree_both_ways_whole_and_piece_by_piece(tmp_path: Path, system: str, own: dict[str, Any]) -> None:
    theirs, tokens = model_of(system, own), random_tokens(37)
    ours = assert_same_in_float64(theirs, tmp_path, TYPES[system], tokens)
    slope = torch.randn(2, 23, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with Wide():
        expected = gradient(theirs(tokens, use_cache=False).logits, theirs.get_input_embeddings().weight, slope)
    torch.testing.assert_close(gradient(ours(tokens)[0], ours.embedding.weight, slope), expected, rtol=1e-8, atol=1e-8)


def gradient(logits: Tensor, weight: Tensor, slope: Tensor) -> Tensor:
    return torch.autograd.grad((logits * slope).sum(), weight)[0]


@every_case
def test_the_tensors_that_are_written_are_those_that_were_read(
    tmp_path: Path, system: str, own: dict[str, Any]
) -> None:
    model_of(system, own).save_pretrained(tmp_path / "theirs")
    save_pretrained(load_pretrained(tmp_path / "theirs"), tmp_path / "ours")  # of the type that fits first
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == TYPES[system]
    read, written = (load_file(tmp_path / place / "model.safetensors") for place in ("theirs", "ours"))
    assert read.keys() == written.keys()
    torch.testing.assert_close(written, read, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("system", "one", "other"),
    [
        ("GptOss", {"swiglu_limit": 0.3}, {"swiglu_limit": 7.0}),
        ("GptOss", {"swiglu_alpha": 3.1}, {"swiglu_alpha": 1.702}),
        ("GptOss", {"sliding_window": 5}, {"sliding_window": 50}),
        ("DeepseekV3", {"n_group": 3}, {"n_group": 1, "topk_group": 1}),
        ("DeepseekV3", {"rope_interleave": True}, {"rope_interleave": False}),
        ("DeepseekV3", {"rope_parameters": YARN | {"mscale_all_dim": 0.7}}, {"rope_parameters": YARN}),
        ("Qwen3Next", {"rope_parameters": YARN | {"partial_rotary_factor": 0.75}}, {"rope_parameters": YARN}),
    ],
)
def test_what_the_cases_differ_in_is_seen(system: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    tokens, shared = random_tokens(37), {"GptOss": GPT_OSS, "DeepseekV3": DEEPSEEK, "Qwen3Next": QWEN}[system]
    with torch.no_grad(), Wide():
        first, second = (
            model_of(system, shared | {"num_hidden_layers": 4} | own)(tokens).logits for own in (one, other)
        )
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("system", "own", "extra"), [("DeepseekV3", DEEPSEEK, "model.layers.3."), ("Qwen3Next", QWEN, "mtp.")]
)
def test_further_token_predictors_are_left_out_with_a_message(
    tmp_path: Path, system: str, own: dict[str, Any], extra: str, caplog: pytest.LogCaptureFixture
) -> None:
    model_of(system, own).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {f"{extra}norm.weight": torch.ones(3)}, file, {"format": "pt"})
    load_pretrained(tmp_path)
    assert f"leaves 1 tensors unread, as transformers does: '{extra}norm.weight'" in caplog.text
    save_file(tensors | {"model.layers.4.norm.weight": torch.ones(3)}, file, {"format": "pt"})
    with pytest.raises(ArchlabError, match=r"unknown tensor 'model\.layers\.4\.norm\.weight'"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("system", "own", "fields", "problem"),
    [
        ("GptOss", GPT_OSS, {"hidden_act": "gelu"}, "hidden_act 'gelu': not represented, only 'silu' or 'swish' is"),
        ("GptOss", GPT_OSS, {"experts_per_token": 2}, "num_experts_per_tok 3 and experts_per_token 2 are one value"),
        ("GptOss", GPT_OSS, {"layer_types": ["chunked_attention"] * 3}, "layer_types 'chunked_attention'"),
        ("GptOss", GPT_OSS, {"swiglu_limit": -1.0}, "gives no model: .*clamp"),
        ("GptOss", GPT_OSS, {"swiglu_beta": 1.0}, "unknown field 'swiglu_beta', here 1.0"),
        (
            "DeepseekV3",
            DEEPSEEK,
            {"scoring_func": "softmax"},
            "scoring_func 'softmax': not represented, only 'sigmoid'",
        ),
        (
            "DeepseekV3",
            DEEPSEEK,
            {"topk_method": "greedy"},
            "topk_method 'greedy': not represented, only 'noaux_tc' is",
        ),
        ("DeepseekV3", DEEPSEEK, {"moe_layer_freq": 2}, "moe_layer_freq 2: not represented, only 1 is"),
        ("DeepseekV3", DEEPSEEK, {"num_key_value_heads": 2}, "num_key_value_heads 2: not represented, only 6 is"),
        ("DeepseekV3", DEEPSEEK, {"head_dim": 8}, "head_dim 8: not represented, only 6 is"),
        ("DeepseekV3", DEEPSEEK, {"qk_head_dim": 8}, "qk_head_dim 8: not represented, only 16 is"),
        ("DiffLlama", {}, {"num_key_value_heads": 3}, "num_key_value_heads 3: not represented, only even numbers are"),
        ("DiffLlama", {}, {"attention_dropout": 0.1}, "attention_dropout 0.1: not represented, only 0.0 is"),
        ("Qwen2Moe", QWEN2_MOE, {"layer_types": ["chunked_attention"] * 3}, "layer_types 'chunked_attention'"),
        ("Qwen2Moe", QWEN2_MOE, {"layer_types": ["full_attention"]}, "layer_types has 1 entries for num_hidden_layers"),
        ("Qwen2Moe", QWEN2_MOE, {"layer_types": ["sliding_attention"] * 3}, "layer_types has 'sliding_attention', and"),
        ("Qwen2Moe", QWEN2_MOE, {"attention_bias": True}, "unknown field 'attention_bias', here True"),
        ("Qwen2Moe", QWEN2_MOE, {"shared_expert_intermediate_size": 0}, "gives no model: .*shared_dim"),
        ("Qwen3Next", QWEN, {"linear_num_value_heads": 4}, "linear_num_value_heads 4 is not divisible by"),
        ("Qwen3Next", QWEN, {"layer_types": ["full_attention"]}, "layer_types has 1 entries for num_hidden_layers 3"),
        ("Qwen3Next", QWEN, {"layer_types": ["sliding_attention"] * 3}, "layer_types 'sliding_attention'"),
        ("Qwen3Next", QWEN, {"partial_rotary_factor": 0.5}, "rope_parameters.partial_rotary_factor 0.25 and partial_"),
        ("Qwen3Next", QWEN, {"use_qk_norm": False}, "unknown field 'use_qk_norm', here False"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(
    tmp_path: Path, system: str, own: dict[str, Any], fields: dict[str, Any], problem: str
) -> None:
    config = getattr(transformers, f"{system}Config")(**deepcopy(SIZES | own)).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ArchlabError, match=f"config.json: {problem}"):
        describe_pretrained(tmp_path)
