"""LLaMA, Mistral, Mixtral, OLMoE, Qwen3 and Gemma of the transformers library, in odd shapes, in both directions."""

import json
from pathlib import Path

import pytest
import torch
from hugging_face_helpers import assert_same_both_ways, assert_same_decoding, random_model, random_tokens, transformers

from archlab import ArchlabError
from archlab.interop import describe_pretrained, load_pretrained, save_pretrained

SIZES = {
    "vocab_size": 37,
    "hidden_size": 36,
    "intermediate_size": 51,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": None,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 8.0, "truncate": False}
SCALED = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": LLAMA3 | {"original_max_position_embeddings": 20},
    "yarn": YARN | {"original_max_position_embeddings": 16},
    "yarn-mscale": YARN | {"original_max_position_embeddings": 16, "mscale": 1.0, "mscale_all_dim": 0.7},
    "yarn-length": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 32,
        "attention_factor": 1.2,
    },
}
LONG = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
TIGHT = {"attn_logit_softcapping": 0.7, "final_logit_softcapping": 1.3}
# Their products of experts need rows of 16 bytes.
ALIGNED = {"intermediate_size": 52}
EXPERTS = {"moe_intermediate_size": 12, "num_experts": 5, "num_experts_per_tok": 3, "head_dim": 10}
GRIFFIN = {
    "num_hidden_layers": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.7},
}
CASES = {
    "llama-grouped": ("Llama", {"head_dim": 10} | LONG),
    "llama-tied": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "llama-biased": ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6}),
    "llama-one-key": ("Llama", {"num_key_value_heads": 1, "vocab_size": 101}),
    **{
        f"{system.lower()}-{name}": (system, {"head_dim": 8, "rope_parameters": rope | {"rope_theta": 300.0}})
        for system, names in (("Llama", SCALED), ("Qwen3", ["yarn"]), ("Mistral", ["llama3"]), ("Gemma2", ["linear"]))
        for name, rope in SCALED.items()
        if name in names
    },
    "mistral-sliding": ("Mistral", {"sliding_window": 5, "head_dim": 8}),
    "mistral-longer-than-text": ("Mistral", {"sliding_window": 50, "head_dim": 4} | LONG),
    "mistral-full": ("Mistral", {"sliding_window": None, "tie_word_embeddings": True}),
    "mixtral": ("Mixtral", ALIGNED | {"num_local_experts": 5, "num_experts_per_tok": 3, "head_dim": 10} | LONG),
    "mixtral-sliding": (
        "Mixtral",
        ALIGNED | {"sliding_window": 5, "num_local_experts": 3, "tie_word_embeddings": True},
    ),
    "mixtral-one": ("Mixtral", ALIGNED | {"num_local_experts": 4, "num_experts_per_tok": 1}),
    "mixtral-dense": ("Mixtral", ALIGNED | {"num_local_experts": 1, "num_experts_per_tok": 1}),
    "olmoe": ("Olmoe", ALIGNED | {"num_experts": 5, "num_experts_per_tok": 3} | LONG),
    "olmoe-normalized-one-key": (
        "Olmoe",
        ALIGNED | {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True, "num_key_value_heads": 1},
    ),
    "olmoe-tied-biased": (
        "Olmoe",
        ALIGNED | {"num_experts": 3, "num_experts_per_tok": 1, "tie_word_embeddings": True, "attention_bias": True},
    ),
    "qwen3-moe": ("Qwen3Moe", EXPERTS | LONG),
    "qwen3-moe-normalized-biased": (
        "Qwen3Moe",
        EXPERTS | {"norm_topk_prob": True, "attention_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    ),
    "qwen3-moe-every-second-layer": ("Qwen3Moe", EXPERTS | {"decoder_sparse_step": 2, "num_hidden_layers": 5}),
    "qwen3-moe-dense-layers": (
        "Qwen3Moe",
        EXPERTS | {"mlp_only_layers": [0, 3], "num_hidden_layers": 4, "norm_topk_prob": True},
    ),
    "qwen3-moe-both-mixes-sliding": (
        "Qwen3Moe",
        EXPERTS
        | {"decoder_sparse_step": 3, "mlp_only_layers": [2, 9], "num_hidden_layers": 7, "head_dim": 4}
        | {"use_sliding_window": True, "sliding_window": 5},
    ),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma-one-key": ("Gemma", {"head_dim": 6, "num_key_value_heads": 1} | LONG),
    "qwen3": ("Qwen3", {"head_dim": 10} | LONG),
    "qwen3-tied-biased": ("Qwen3", {"head_dim": 8, "tie_word_embeddings": True, "attention_bias": True}),
    "qwen3-sliding-from-a-layer-on": (
        "Qwen3",
        {"head_dim": 4, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "rms_norm_eps": 1e-3},
    ),
    "qwen3-all-sliding": (
        "Qwen3",
        {"head_dim": 6, "use_sliding_window": True, "sliding_window": 7, "layer_types": ["sliding_attention"] * 2},
    ),
    "gemma2": ("Gemma2", {"head_dim": 10, "query_pre_attn_scalar": 7, "sliding_window": 5} | TIGHT),
    "gemma2-no-cap": (
        "Gemma2",
        {
            "head_dim": 8,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "sliding_window": 50,
            "num_hidden_layers": 3,
            "tie_word_embeddings": False,
            "attention_bias": True,
        },
    ),
    "gemma2-no-window": ("Gemma2", {"head_dim": 8, "layer_types": ["full_attention"] * 2}),
    "gemma3-no-window": ("Gemma3", {"head_dim": 8, "layer_types": ["full_attention"] * 2}),
    "gemma2-one-key": ("Gemma2", {"head_dim": 6, "num_key_value_heads": 1, "query_pre_attn_scalar": 6} | LONG),
    "gemma3": ("Gemma3", {"head_dim": 10, "sliding_window": 5, "num_hidden_layers": 7, "query_pre_attn_scalar": 9}),
    "gemma3-listed": (
        "Gemma3",
        {
            "head_dim": 6,
            "sliding_window": 3,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
            "num_hidden_layers": 3,
            "final_logit_softcapping": 2.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
    ),
    "recurrent-gemma": ("RecurrentGemma", {"attention_window_size": 5} | GRIFFIN),
    "recurrent-gemma-wide-biased": (
        "RecurrentGemma",
        {
            "lru_width": 42,
            "num_key_value_heads": 1,
            "conv1d_width": 3,
            "attention_window_size": 50,
            "attention_bias": True,
            "block_types": ["attention", "recurrent"],
            "num_hidden_layers": 3,
            "logits_soft_cap": 1.3,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 1.0},
        },
    ),
    "recurrent-gemma-rounded": (
        "RecurrentGemma",
        {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 5, "intermediate_size": 31}
        | {"block_types": ["recurrent", "attention", "recurrent"], "num_hidden_layers": 3},
    ),
    "gemma-untied": ("Gemma", {"head_dim": 8, "tie_word_embeddings": False, "attention_bias": True}),
}
CONFIGS = {"Gemma3": "Gemma3Text"}
TYPES = {"Gemma3": "gemma3_text", "Qwen3Moe": "qwen3_moe", "RecurrentGemma": "recurrent_gemma"}
every_case = pytest.mark.parametrize(("system", "own"), CASES.values(), ids=CASES)


def model_of(system: str, own: dict[str, object], dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    config = getattr(transformers, f"{CONFIGS.get(system, system)}Config")(**(SIZES | own))
    config._attn_implementation = "eager"  # the class's own equations, which a cap of scores needs
    return random_model(getattr(transformers, f"{system}ForCausalLM"), config, dtype)


@pytest.mark.slow
@every_case
def test_logits_and_decoding_agree_both_ways(tmp_path: Path, system: str, own: dict[str, object]) -> None:
    theirs = model_of(system, own)
    inputs = random_tokens(theirs.config.vocab_size)
    ours = assert_same_both_ways(theirs, tmp_path, TYPES.get(system, system.lower()), inputs, atol=1e-5)
    assert_same_decoding(theirs, ours, inputs[:, :7])


@pytest.mark.parametrize(
    ("system", "one", "other"),
    [
        ("Mistral", {"sliding_window": 5}, {"sliding_window": None}),
        ("Gemma2", {"attn_logit_softcapping": 0.7}, {"attn_logit_softcapping": None}),
        ("Gemma2", {"final_logit_softcapping": 1.3}, {"final_logit_softcapping": None}),
        ("Gemma2", {"query_pre_attn_scalar": 7}, {"query_pre_attn_scalar": 256}),
        ("Gemma2", {"sliding_window": 5}, {"sliding_window": 50}),
        ("Olmoe", ALIGNED | {"norm_topk_prob": True, "head_dim": 6}, ALIGNED | {"head_dim": 6}),
        ("Qwen3Moe", EXPERTS | {"norm_topk_prob": True}, EXPERTS | {"norm_topk_prob": False}),
        ("Qwen3Moe", EXPERTS | {"sliding_window": 5, "use_sliding_window": True}, EXPERTS | {"sliding_window": 5}),
        ("Gemma3", {"layer_types": ["full_attention"] * 2}, {"layer_types": ["sliding_attention"] * 2}),
        ("RecurrentGemma", GRIFFIN, {"num_hidden_layers": 4, "partial_rotary_factor": 0.4}),
        ("RecurrentGemma", GRIFFIN | {"logits_soft_cap": 1.3}, GRIFFIN),
    ],
)
def test_what_the_cases_differ_in_is_seen(system: str, one: dict[str, object], other: dict[str, object]) -> None:
    inputs = random_tokens(37)
    with torch.no_grad():
        first, second = (model_of(system, {"head_dim": 10} | own)(inputs).logits for own in (one, other))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("system", "own", "problem"),
    [
        (
            "Llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "rope_parameters .*'dynamic'",
        ),
        ("Llama", {"hidden_act": "gelu"}, "hidden_act 'gelu': not represented, only 'silu' or 'swish' is"),
        ("Olmoe", {"clip_qkv": 8.0}, "clip_qkv 8.0: not represented, only None is"),
        ("Gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention True: not represented"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(
    tmp_path: Path, system: str, own: dict[str, object], problem: str
) -> None:
    model_of(system, own).save_pretrained(tmp_path)
    with pytest.raises(ArchlabError, match=f"config.json: {problem}"):
        load_pretrained(tmp_path)


def test_a_model_that_another_library_lacks_is_refused(tmp_path: Path) -> None:
    model_of("Gemma", {"head_dim": 6}).save_pretrained(tmp_path / "gemma")
    ours = load_pretrained(tmp_path / "gemma")
    with pytest.raises(ArchlabError, match="the model is no llama: "):
        save_pretrained(ours, tmp_path / "llama", "llama")
    assert not (tmp_path / "llama").exists()


@pytest.mark.parametrize(("kinds", "layers"), [([], 4), (["recurrent"], 101)])
def test_kinds_of_layers_that_the_class_does_not_repeat_as_often_are_refused(
    tmp_path: Path, kinds: list[str], layers: int
) -> None:
    transformers.RecurrentGemmaConfig(num_hidden_layers=3).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"block_types": kinds, "num_hidden_layers": layers}))
    with pytest.raises(ArchlabError, match=rf"block_types .* does not give {layers} layers$"):
        describe_pretrained(tmp_path)
