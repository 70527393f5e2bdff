"""Kimi Linear of the transformers library, in odd shapes, in both directions, in float64."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from float64_helpers import EAGER, Wide, assert_same_in_float64, wide_logits, wide_model
from hugging_face_helpers import random_tokens, transformers
from safetensors.torch import load_file, save_file
from torch import nn

from archlab import ArchlabError
from archlab.interop import describe_pretrained, load_pretrained, save_pretrained

SIZES: dict[str, Any] = {
    "vocab_size": 37,
    "hidden_size": 36,
    "intermediate_size": 13,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "kv_lora_rank": 7,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 9,
    "moe_intermediate_size": 5,
    "num_experts": 6,
    "num_expert_group": 3,
    "topk_group": 2,
    "num_experts_per_token": 3,
    "linear_head_dim": 5,
    "linear_num_heads": 3,
    "model_max_length": 64,
    "eos_token_id": None,
    "pad_token_id": None,
}
LISTS = {"full_attn_layers": [2, 5], "kda_layers": [1, 3, 4]}
CASES: dict[str, dict[str, Any]] = {
    "every-fourth": {},
    "listed-biased-query-latent": {
        "layer_types": ["full_attention", "linear_attention", "full_attention"],
        "mlp_layer_types": ["sparse", "dense", "sparse"],
        "num_hidden_layers": 3,
        "attention_bias": True,
        "q_lora_rank": 4,
        "num_shared_experts": 2,
        "rms_norm_eps": 1e-3,
        "linear_conv_kernel_dim": 3,
    },
    "as-published": {
        "linear_attn_config": LISTS | {"head_dim": 7, "num_heads": 2, "short_conv_kernel_size": 2},
        "first_k_dense_replace": 2,
        "moe_renormalize": False,
        "num_expert_group": 1,
        "topk_group": 1,
    },
    "linear-alone-dense": {
        "num_hidden_layers": 2,
        "first_k_dense_replace": 2,
        "linear_conv_kernel_dim": 1,
        "linear_num_heads": 1,
    },
    "latent-alone": {
        "num_hidden_layers": 2,
        "layer_types": ["full_attention"] * 2,
        "num_key_value_heads": None,
        "tie_word_embeddings": True,  # which their class does not do
    },
}
every_case = pytest.mark.parametrize("own", CASES.values(), ids=CASES)


def model_of(own: dict[str, Any]) -> nn.Module:
    config = transformers.KimiLinearConfig(**deepcopy(SIZES | EAGER | own))
    theirs = wide_model(transformers.KimiLinearForCausalLM, config)
    for name, buffer in theirs.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.linspace(-0.3, 0.3, len(buffer)))
    return theirs


@pytest.mark.slow
@every_case
def test_logits_and_gradients_agree_both_ways_whole_and_piece_by_piece(tmp_path: Path, own: dict[str, Any]) -> None:
    theirs, tokens = model_of(own), random_tokens(37)
    ours = assert_same_in_float64(theirs, tmp_path, "kimi_linear", tokens)
    slope = torch.randn(2, 23, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with Wide():
        logits = theirs(tokens, use_cache=False).logits
        expected = torch.autograd.grad((logits * slope).sum(), theirs.get_input_embeddings().weight)
    gradient = torch.autograd.grad((ours(tokens)[0] * slope).sum(), ours.embedding.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_more_than_one_chunk_of_theirs_agrees(tmp_path: Path) -> None:
    theirs, tokens = model_of({"model_max_length": 200}), random_tokens(37, 131)
    theirs.save_pretrained(tmp_path)
    torch.testing.assert_close(load_pretrained(tmp_path)(tokens)[0], wide_logits(theirs, tokens), rtol=0, atol=1e-10)


def in_the_names_of_transformers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace(".mlp.", ".block_sparse_moe."): tensor for name, tensor in tensors.items()}


@every_case
def test_the_tensors_that_are_written_are_those_that_were_read(tmp_path: Path, own: dict[str, Any]) -> None:
    model_of(own).save_pretrained(tmp_path / "theirs")
    save_pretrained(load_pretrained(tmp_path / "theirs"), tmp_path / "ours")  # of the type that fits first
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["model_type"] == "kimi_linear"
    read, written = (load_file(tmp_path / place / "model.safetensors") for place in ("theirs", "ours"))
    written = in_the_names_of_transformers(written)
    assert read.keys() == written.keys()
    torch.testing.assert_close(written, read, rtol=0, atol=0)


@pytest.mark.slow
def test_a_dense_layer_is_read_by_the_name_of_the_authors_and_by_that_of_transformers(tmp_path: Path) -> None:
    model_of({}).save_pretrained(tmp_path)
    first = load_pretrained(tmp_path).state_dict()
    file = tmp_path / "model.safetensors"
    tensors, theirs, authors = load_file(file), "model.layers.0.block_sparse_moe.", "model.layers.0.mlp."
    save_file({name.replace(theirs, authors): tensor for name, tensor in tensors.items()}, file, {"format": "pt"})
    torch.testing.assert_close(load_pretrained(tmp_path).state_dict(), first, rtol=0, atol=0)
    twice = {f"{authors}up_proj.weight": tensors[f"{theirs}up_proj.weight"].clone()}
    save_file(tensors | twice, file, {"format": "pt"})
    with pytest.raises(ArchlabError, match=r"unknown tensor 'model\.layers\.0\.block_sparse_moe\.up_proj\.weight'"):
        load_pretrained(tmp_path)
    save_file({name: tensors[name] for name in tensors if "0.block_sparse_moe.up" not in name}, file, {"format": "pt"})
    with pytest.raises(ArchlabError, match=r"tensor 'model\.layers\.0\.mlp\.up_proj\.weight' is missing"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu': not represented, only 'silu' or 'swish' is"),
        ({"mla_use_nope": False}, "mla_use_nope False: not represented, only True is"),
        ({"mla_use_output_gate": True}, "unknown field 'mla_use_output_gate', here True"),
        ({"moe_layer_freq": 2}, "moe_layer_freq 2: not represented, only 1 is"),
        ({"moe_router_activation_func": "softmax"}, "moe_router_activation_func 'softmax': not represented, only"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers 1: not represented, only 0 is"),
        ({"num_key_value_heads": 2}, "num_key_value_heads 2: not represented, only 6 is"),
        ({"n_group": 2}, "num_expert_group 3 and n_group 2 are one value"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries for num_hidden_layers 5"),
        ({"layer_types": ["sliding_attention"] * 5}, "layer_types 'sliding_attention': not represented, only"),
        ({"mlp_layer_types": ["moe"] * 5}, "mlp_layer_types 'moe': not represented, only 'dense' and 'sparse' are"),
        ({"linear_attn_config": {"gate_lower_bound": -5.0}}, "linear_attn_config: unknown field 'gate_lower_bound'"),
        (
            {"linear_attn_config": LISTS | {"kda_layers": [1, 3]}, "layer_types": None},
            "linear_attn_config: full_attn_layers and kda_layers do not have every number from 1 to 5 once",
        ),
        ({"num_shared_experts": 0}, "gives no model: .*shared_dim"),
        ({"qk_rope_head_dim": 0}, "gives no model: .*position_dim"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], problem: str) -> None:
    config = transformers.KimiLinearConfig(**deepcopy(SIZES)).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ArchlabError, match=f"config.json: {problem}"):
        describe_pretrained(tmp_path)
