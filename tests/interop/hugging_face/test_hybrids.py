"""LFM2, MiniMax, Jamba, Falcon-H1 and Nemotron-H of transformers, in odd shapes, in both directions, in float64."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from float64_helpers import EAGER, assert_same_in_float64, wide_model
from hugging_face_helpers import random_tokens, transformers

from archlab import ArchlabError
from archlab.interop import describe_pretrained
from archlab.modeling.build import build_on_meta, count_parameters

SIZES = {
    "vocab_size": 37,
    "hidden_size": 36,
    "intermediate_size": 51,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": None,
    "pad_token_id": None,
}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}
EXPERTS = {"num_local_experts": 5, "num_experts_per_tok": 3}
LIGHTNING = {"num_hidden_layers": 4, "block_size": 5, "num_key_value_heads": 6}
JAMBA = {"num_experts": 5, "num_experts_per_tok": 3, "mamba_d_state": 5, "mamba_dt_rank": 7}
FALCON = {"num_hidden_layers": 2, "mamba_d_ssm": 30, "mamba_n_heads": 6, "mamba_d_state": 7, "mamba_chunk_size": 8}
NEMOTRON = {"mamba_num_heads": 6, "mamba_head_dim": 5, "ssm_state_size": 7, "n_groups": 2, "chunk_size": 8}
NEMOTRON_MOE = {
    "n_routed_experts": 6,
    "n_group": 3,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 5,
    "moe_shared_expert_intermediate_size": 11,
    "routed_scaling_factor": 2.5,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lfm2": ("Lfm2", {"num_hidden_layers": 3, "full_attn_idxs": [1], "block_multiple_of": 8} | ROPE),
    "lfm2-biased-untied": (
        "Lfm2",
        {
            "layer_types": ["full_attention", "conv", "conv", "full_attention"],
            "num_hidden_layers": 4,
            "conv_bias": True,
            "conv_L_cache": 4,
            "tie_word_embeddings": False,
            "block_auto_adjust_ff_dim": False,
            "norm_eps": 1e-3,
            "num_key_value_heads": 1,
        },
    ),
    "lfm2-convolutions-alone": (
        "Lfm2",
        {"layer_types": ["conv"] * 2, "num_hidden_layers": 2, "conv_L_cache": 2, "block_ffn_dim_multiplier": 1.7},
    ),
    "lfm2-wide-heads": (
        "Lfm2",
        {"num_hidden_layers": 3, "full_attn_idxs": [0, 2], "block_multiple_of": 5, "head_dim": 10} | ROPE,
    ),
    "minimax": (
        "MiniMax",
        EXPERTS | LIGHTNING | {"full_attn_alpha_factor": 1.3, "linear_attn_alpha_factor": 1.3, "mlp_alpha_factor": 1.3},
    ),
    "minimax-listed": (
        "MiniMax",
        EXPERTS
        | ROPE
        | {f"{branch}_beta_factor": 0.7 for branch in ("full_attn", "linear_attn", "mlp")}
        | {"layer_types": ["linear_attention", "linear_attention", "full_attention"], "num_hidden_layers": 3}
        | {"head_dim": 10, "sliding_window": 5, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    ),
    "minimax-lightning-alone": (
        "MiniMax",
        EXPERTS | {"layer_types": ["linear_attention"], "num_hidden_layers": 1, "full_attn_alpha_factor": 3.0},
    ),
    "jamba": (
        "Jamba",
        JAMBA | {"num_hidden_layers": 4, "attn_layer_period": 3, "attn_layer_offset": 1, "mamba_proj_bias": True},
    ),
    "jamba-tied-without-bias": (
        "Jamba",
        JAMBA
        | {"num_hidden_layers": 5, "attn_layer_period": 4, "attn_layer_offset": 2, "expert_layer_period": 3}
        | {"mamba_conv_bias": False, "mamba_d_conv": 3, "mamba_expand": 3, "tie_word_embeddings": True}
        | {"expert_layer_offset": 0, "rms_norm_eps": 1e-3, "head_dim": 10, "mamba_dt_rank": "auto"},
    ),
    "jamba-dense-mamba": ("Jamba", JAMBA | {"num_hidden_layers": 2, "num_experts": 1}),
    "jamba-sparse-attention": (
        "Jamba",
        JAMBA
        | {"num_hidden_layers": 2, "attn_layer_period": 1, "attn_layer_offset": 0, "num_key_value_heads": 1}
        | {"expert_layer_period": 1, "expert_layer_offset": 0},
    ),
    "falcon-h1": (
        "FalconH1",
        FALCON
        | ROPE
        | {
            "embedding_multiplier": 5.6,
            "lm_head_multiplier": 0.04,
            "key_multiplier": 0.39,
            "attention_in_multiplier": 1.2,
        }
        | {"attention_out_multiplier": 0.93, "ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.23}
        | {"ssm_multipliers": [0.35, 0.25, 0.7, 0.5, 1.3], "mlp_multipliers": [0.88, 0.58]},
    ),
    "falcon-h1-biased-norm-after-gate": (
        "FalconH1",
        FALCON
        | {"mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 3, "rms_norm_eps": 1e-3}
        | {"attention_bias": True, "mlp_bias": True, "projectors_bias": True, "mamba_proj_bias": True, "head_dim": 10}
        | {"mlp_multipliers": [1.5, 0.5], "ssm_multipliers": [0.9, 1.1, 0.8, 1.2, 1.3], "key_multiplier": 0.7},
    ),
    "falcon-h1-tied-norm-before-gate": (
        "FalconH1",
        FALCON
        | {"mamba_d_ssm": None, "mamba_expand": 3, "mamba_n_heads": 4, "mamba_rms_norm": True, "mamba_conv_bias": False}
        | {"tie_word_embeddings": True, "lm_head_multiplier": 0.1, "num_key_value_heads": 1, "mamba_d_conv": 2},
    ),
    "nemotron-h": (
        "NemotronH",
        NEMOTRON | {"layers_block_type": ["linear_attention", "mlp", "linear_attention", "full_attention", "mlp"]},
    ),
    "nemotron-h-biased": (
        "NemotronH",
        NEMOTRON
        | {"layers_block_type": ["full_attention", *["linear_attention", "mlp"] * 2, "linear_attention"]}
        | {
            "time_step_min": 0.4,
            "use_bias": True,
            "mlp_bias": True,
            "use_conv_bias": False,
            "conv_kernel": 3,
            "layer_norm_epsilon": 1e-3,
        }
        | {"head_dim": 10, "num_key_value_heads": 1, "n_groups": 3},
    ),
    "nemotron-h-mamba-alone": (
        "NemotronH",
        NEMOTRON | {"layers_block_type": ["linear_attention"] * 2, "time_step_min": 1e-4},
    ),
    "nemotron-h-attention-alone": ("NemotronH", NEMOTRON | {"layers_block_type": ["full_attention", "mlp"]}),
    "nemotron-h-experts": (
        "NemotronH",
        NEMOTRON
        | NEMOTRON_MOE
        | {"layers_block_type": ["linear_attention", "moe", "linear_attention", "full_attention", "moe"]},
    ),
    "nemotron-h-latent-experts-biased": (
        "NemotronH",
        NEMOTRON
        | NEMOTRON_MOE
        | {"layers_block_type": ["full_attention", "mlp", "linear_attention", "moe"], "mlp_bias": True}
        | {"moe_latent_size": 7, "n_group": 1, "topk_group": 1, "norm_topk_prob": False}
        | {"moe_shared_expert_intermediate_size": 0},  # which their class takes for the width of an MLP
    ),
}
TYPES = {"FalconH1": "falcon_h1", "NemotronH": "nemotron_h"}


def model_of(system: str, own: dict[str, Any]) -> Any:
    config = getattr(transformers, f"{system}Config")(**(SIZES | EAGER | own))
    theirs = wide_model(getattr(transformers, f"{system}ForCausalLM"), config)
    for name, buffer in theirs.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.linspace(-0.3, 0.3, len(buffer)))
    return theirs


@pytest.mark.slow
@pytest.mark.parametrize(("system", "own"), CASES.values(), ids=CASES)
def test_logits_agree_both_ways_whole_and_piece_by_piece(tmp_path: Path, system: str, own: dict[str, Any]) -> None:
    theirs = model_of(system, own)
    assert_same_in_float64(theirs, tmp_path, TYPES.get(system, system.lower()), random_tokens(37))


@pytest.mark.parametrize(
    ("system", "own", "fields", "problem"),
    [
        (
            "Lfm2",
            {"num_hidden_layers": 2, "full_attn_idxs": [1]},
            {"layer_types": ["conv", "conv"]},
            r"full_attn_idxs \[1\] and layer_types \['conv', 'conv'\] are one value",
        ),
        (
            "MiniMax",
            {"num_hidden_layers": 1},
            {"layer_types": ["sliding_attention"]},
            "layer_types 'sliding_attention'",
        ),
        ("Lfm2", {"num_hidden_layers": 1}, {"use_pos_enc": False}, "use_pos_enc False: not represented, only True is"),
        (
            "MiniMax",
            LIGHTNING,
            {"mlp_alpha_factor": 2.0},
            "mlp_alpha_factor 2.0: not represented, only full_attn_alpha_factor 1 is",
        ),
        (
            "MiniMax",
            {"num_hidden_layers": 2},
            {"linear_attn_beta_factor": 0.5},
            "mlp_beta_factor 1: not represented, only linear_attn_beta_factor 0.5 is",
        ),
        ("MiniMax", LIGHTNING, {"rotary_dim": 3}, "rotary_dim 3: not represented, only head_dim 6 is"),
        (
            "Jamba",
            JAMBA,
            {"mamba_inner_layernorms": False},
            "mamba_inner_layernorms False: not represented, only True is",
        ),
        ("FalconH1", FALCON, {"time_step_limit": [0.0, 0.5]}, r"time_step_limit \[0.0, 0.5\]: not represented"),
        ("FalconH1", FALCON, {"projectors_bias": True}, "projectors_bias True: not represented, only mamba_proj_bias"),
        ("FalconH1", FALCON, {"mlp_multipliers": [1.0]}, r"mlp_multipliers \[1.0\] is not a list of 2 numbers"),
        ("FalconH1", FALCON, {"mamba_d_head": 6}, "mamba_n_heads 6 of 6 do not fill 30"),
        ("FalconH1", FALCON, {"mamba_use_mlp": False}, "mamba_use_mlp False: not represented, only True is"),
        ("NemotronH", NEMOTRON, {"layers_block_type": ["conv"]}, "a layer 'conv': not represented, only 'linear_att"),
        ("NemotronH", NEMOTRON, {"layers_block_type": ["mlp"]}, "layer 0 is 'mlp': not represented"),
        ("NemotronH", NEMOTRON, {"hybrid_override_pattern": "M-E", "layers_block_type": None}, "layer 2 is 'moe': not"),
        ("NemotronH", NEMOTRON, {"layers_block_type": None}, "layers_block_type, or hybrid_override_pattern, is miss"),
        ("NemotronH", NEMOTRON, {"hybrid_override_pattern": "M-"}, "hybrid_override_pattern 'M-' and layers_block_t"),
        ("NemotronH", NEMOTRON, {"num_hidden_layers": 7}, "num_hidden_layers 7 and the 4 layers of the list"),
        ("NemotronH", NEMOTRON, {"num_nextn_predict_layers": 1}, "num_nextn_predict_layers 1: not represented"),
        ("MiniMax", LIGHTNING, {"postnorm": False}, "postnorm False: not represented, only True is"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(
    tmp_path: Path, system: str, own: dict[str, Any], fields: dict[str, Any], problem: str
) -> None:
    config = getattr(transformers, f"{system}Config")(**(SIZES | own)).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ArchlabError, match=f"config.json: {problem}"):
        describe_pretrained(tmp_path)


NANO = {
    "model_type": "nemotron_h",
    "vocab_size": 131072,
    "hidden_size": 2688,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "num_hidden_layers": 52,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "mamba_num_heads": 64,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "n_groups": 8,
    "expand": 2,
    "intermediate_size": 1856,
    "moe_intermediate_size": 1856,
    "moe_shared_expert_intermediate_size": 3712,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 6,
    "routed_scaling_factor": 2.5,
    "norm_eps": 1e-05,
    "layer_norm_epsilon": 1e-05,
    "num_logits_to_keep": 1,
    "partial_rotary_factor": 1.0,
    "rope_theta": 10000,
    "sliding_window": None,
    "use_mamba_kernels": True,
}


def test_the_published_file_of_nemotron_3_nano_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NANO))
    spec = describe_pretrained(tmp_path)
    assert sum(layer.repeat for layer in spec.knobs["layers"]) == 52 - 23  # each mixer with what follows it
    assert count_parameters(build_on_meta(spec)) == 31_577_937_344


@pytest.mark.parametrize("system", ["MiniMax", "KimiLinear"])
def test_the_kinds_of_layers_that_a_file_does_not_list_are_those_of_the_class(system: str, tmp_path: Path) -> None:
    config = getattr(transformers, f"{system}Config")(num_hidden_layers=6)
    config.save_pretrained(tmp_path)
    listed = json.loads((tmp_path / "config.json").read_text())
    assert len(listed["layer_types"]) == 6
    expected = describe_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in listed.items() if k != "layer_types"}))
    assert describe_pretrained(tmp_path) == expected
