"""Hybrids of the transformers library: parameter counts, and the function of the small experiments."""

from pathlib import Path
from typing import Any

import pytest
import torch
from float64_helpers import Wide, reload
from hugging_face_helpers import add_noise, random_tokens, transformers

from archlab.config import experiment
from archlab.interop import save_pretrained
from archlab.modeling.build import build, build_on_meta, count_parameters

IMPORTED = {
    "qwen3_next_tiny": ("qwen3_next", []),
    "kimi_linear_tiny": ("kimi_linear", []),
    "jamba_tiny": ("jamba", []),
    # The published model rotates half of each head, which transformers' port does not know.
    "minimax_text_tiny": ("minimax", ["model.layers[3].mixer.position.fraction=1.0"]),
    "lfm2_tiny": ("lfm2", []),
    "falcon_h1_tiny": ("falcon_h1", []),
    "nemotron_h_tiny": ("nemotron_h", []),
    "nemotron_h_moe_tiny": ("nemotron_h", []),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPORTED)
def test_a_small_one_computes_what_its_export_does(name: str, tmp_path: Path) -> None:
    model_type, overrides = IMPORTED[name]
    ours = add_noise(build(experiment.load(name, overrides).model).double())
    save_pretrained(ours, tmp_path / name, model_type)
    assert_same_function(ours, reload(transformers.AutoModelForCausalLM, tmp_path / name))


def assert_same_function(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Both give the same logits in float64, and the same gradients of the embedding."""
    tokens = random_tokens(256, 71)
    with Wide():
        expected = theirs(tokens, use_cache=False).logits
    logits = ours(tokens)[0], expected
    torch.testing.assert_close(*logits, rtol=0, atol=1e-10)
    weight = torch.randn(logits[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    embeddings = ours.embedding.weight, theirs.get_input_embeddings().weight
    gradients = [torch.autograd.grad((y * weight).sum(), w)[0] for y, w in zip(logits, embeddings, strict=True)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def minimax_text() -> Any:
    sizes = {"vocab_size": 200064, "hidden_size": 6144, "intermediate_size": 9216, "num_local_experts": 32}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}
    types = [*["linear_attention"] * 7, "full_attention"] * 10
    return transformers.MiniMaxConfig(**sizes, **heads, num_hidden_layers=80, layer_types=types)


def lfm2_1b2() -> Any:
    layers = {"num_hidden_layers": 16, "full_attn_idxs": [2, 5, 8, 10, 12, 14]}
    return transformers.Lfm2Config(hidden_size=2048, intermediate_size=12288, **layers)


def falcon_h1_0b5() -> Any:
    sizes = {"vocab_size": 32784, "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 36}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64}
    mamba = {"mamba_d_ssm": 1536, "mamba_n_heads": 24, "mamba_d_state": 128}
    return transformers.FalconH1Config(**sizes, **heads, **mamba)


def kimi_linear_48b_a3b() -> Any:
    attention = [4, 8, 12, 16, 20, 24, 27]
    layers = {"full_attn_layers": attention, "kda_layers": sorted({*range(1, 28)} - {*attention})}
    return transformers.KimiLinearConfig(linear_attn_config=layers)


def nemotron_h_8b() -> Any:
    pattern = ["M-M-M-M*-", *["M-M-M-M-M*-"] * 3, "M-M-M-M-M-"]
    return transformers.NemotronHConfig(hybrid_override_pattern="".join(pattern), max_position_embeddings=8192)


def nemotron_h_30b_a3b() -> Any:
    sizes = {"hidden_size": 2688, "num_key_value_heads": 2, "mamba_num_heads": 64}
    experts = {"n_routed_experts": 128, "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712}
    pattern = ["MEMEM*E" * 5, "MEMEMEM*E", "MEMEMEME"]
    return transformers.NemotronHConfig(hybrid_override_pattern="".join(pattern), **sizes, **experts)


PUBLISHED = {
    "qwen3_next_80b_a3b": transformers.Qwen3NextConfig,
    "kimi_linear_48b_a3b": kimi_linear_48b_a3b,
    "jamba_52b_a12b": transformers.JambaConfig,
    "minimax_text_456b_a46b": minimax_text,
    "lfm2_1b2": lfm2_1b2,
    "falcon_h1_0b5": falcon_h1_0b5,
    "nemotron_h_8b": nemotron_h_8b,
    "nemotron_h_30b_a3b": nemotron_h_30b_a3b,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_one_has_as_many_parameters_as_theirs(name: str) -> None:
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(PUBLISHED[name]())
    assert count_parameters(build_on_meta(experiment.load(name).model)) == sum(p.numel() for p in theirs.parameters())


def test_samba_has_the_parameters_of_its_table() -> None:
    """Count them by hand: no library has this model."""
    dim, width, states, rank, ffn, vocab = 2304, 4608, 16, 144, 6144, 32000
    convolution, scan = 5 * width, width * (rank + 2 * states) + (rank + 1) * width + (states + 1) * width
    mamba = 2 * dim * width + convolution + scan + width * dim
    attention, norms = 4 * dim * dim, 2 * dim
    total = 9 * (mamba + attention) + 18 * (3 * dim * ffn + norms) + vocab * dim + dim
    assert count_parameters(build_on_meta(experiment.load("samba_1b3").model)) == total
