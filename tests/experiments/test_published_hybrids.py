"""Hybrids of the transformers library: parameter counts, and the function of the small experiments."""

from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from float64_helpers import EAGER, Wide, reload, wide_model
from hugging_face_helpers import add_noise, random_tokens, transformers
from torch import Tensor

from archlab.config import experiment
from archlab.interop import save_pretrained
from archlab.modeling.build import build, build_on_meta, count_parameters

Named = Iterator[tuple[str, Tensor]]
SMALL = {
    "vocab_size": 256,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# Parts of their names, in this order, and what they are here.
RENAMES = {
    "model.embed_tokens": "embedding",
    "lm_head": "head",
    "model.layers": "blocks",
    "model.final_layernorm": "norm",
    "model.norm": "norm",
    "model.embedding_norm": "norm",
    "input_layernorm": "norm",
    "post_attention_layernorm": "ffn_norm",
    "pre_ff_layernorm": "ffn_norm",
    "operator_norm": "norm",
    "self_attn.": "mixer.",
    "mamba.": "mixer.",
    "feed_forward.w1": "ffn.gate",
    "feed_forward.w2": "ffn.down",
    "feed_forward.w3": "ffn.up",
    "feed_forward.": "ffn.",
    "mlp.gate.": "ffn.router.",
    "mlp.": "ffn.",
    "experts.down_proj": "experts.down",
    "ffn.gate_proj": "ffn.gate",
    "ffn.up_proj": "ffn.up",
    "down_proj": "down",
    ".q_proj": ".query",
    ".k_proj": ".key",
    ".v_proj": ".value",
    ".o_proj": ".out",
    "q_layernorm": "query_norm",
    "k_layernorm": "key_norm",
    "dt_layernorm": "dt_norm",
    "b_layernorm": "B_norm",
    "c_layernorm": "C_norm",
}


def named(theirs: torch.nn.Module, split: Callable[[str, Tensor], Named]) -> dict[str, Tensor]:
    """Return their parameters under the names here, where `split` divides what is one of theirs and several here."""
    tensors = {}
    for their_name, tensor in theirs.named_parameters():
        name = reduce(lambda name, change: name.replace(*change), RENAMES.items(), their_name)
        if name.endswith("gate_up_proj"):
            gate, up = tensor.chunk(2, 1)
            tensors |= {name.replace("gate_up_proj", "gate"): gate, name.replace("gate_up_proj", "up"): up}
        else:
            tensors |= dict(split(name, tensor))
    return tensors


def jamba(name: str, tensor: Tensor) -> Named:
    if name.endswith("in_proj.weight"):
        x, z = tensor.chunk(2)
        yield from ((name.replace("in_proj", "x_proj"), x), (name.replace("in_proj", "z_proj"), z))
    elif name.endswith("x_proj.weight"):
        parts = ("dt_down", "B_proj", "C_proj")
        for part, rows in zip(parts, tensor.split((8, 16, 16)), strict=True):
            yield name.replace("x_proj", part), rows
    elif "conv1d" in name:
        yield name.replace("conv1d", "conv"), tensor[:, 0].T if tensor.ndim == 3 else tensor
    else:
        yield name, tensor


def minimax(name: str, tensor: Tensor) -> Named:
    """Each head's queries, keys and values lie side by side in theirs."""
    if name.endswith("qkv_proj.weight"):
        for part, rows in zip(("query", "key", "value"), tensor.unflatten(0, (4, 3, 32)).unbind(1), strict=True):
            yield name.replace("qkv_proj", part), rows.flatten(0, 1)
    elif name.endswith("mixer.norm.weight"):
        yield name, tensor - 1  # the scale here is 1 + weight
    else:
        yield name.replace("output_gate", "gate").replace("out_proj", "out"), tensor


def lfm2(name: str, tensor: Tensor) -> Named:
    if name.endswith("conv.in_proj.weight"):
        for part, rows in zip(("gate_in", "gate_out", "value"), tensor.chunk(3), strict=True):
            yield name.replace("conv.in_proj", f"mixer.{part}"), rows
    elif name.endswith("conv.conv.weight"):
        yield name.replace("conv.conv", "mixer.ema"), tensor[:, 0].T
    else:
        yield name.replace("conv.", "mixer.").replace("out_proj", "out"), tensor


def small_jamba() -> Any:
    periods = {"attn_layer_period": 4, "attn_layer_offset": 2, "num_hidden_layers": 4}
    return transformers.JambaConfig(**SMALL, **EAGER, **periods, intermediate_size=128, num_experts=8)


def small_minimax() -> Any:
    layers = {"num_hidden_layers": 4, "layer_types": [*["linear_attention"] * 3, "full_attention"]}
    experts = {"num_local_experts": 8, "intermediate_size": 64}
    factors = {f"{branch}_alpha_factor": 8**0.25 for branch in ("full_attn", "linear_attn", "mlp")}
    return transformers.MiniMaxConfig(
        **SMALL, **EAGER, **layers, **experts, **factors, rope_parameters=ROPE, block_size=32
    )


def small_lfm2() -> Any:
    sizes = {"num_hidden_layers": 6, "full_attn_idxs": [2, 5], "intermediate_size": 384}
    return transformers.Lfm2Config(**SMALL, **EAGER, **sizes, rope_parameters=ROPE)


CASES = {
    "jamba_tiny": (small_jamba, jamba, []),
    # The published model rotates half of each head, which transformers' port does not know.
    "minimax_text_tiny": (small_minimax, minimax, ["model.layers[3].mixer.position.fraction=1.0"]),
    "lfm2_tiny": (small_lfm2, lfm2, []),
}


IMPORTED = {"qwen3_next_tiny": ("qwen3_next", [])}


@pytest.mark.parametrize("name", IMPORTED)
def test_a_small_one_computes_what_its_export_does(name: str, tmp_path: Path) -> None:
    model_type, overrides = IMPORTED[name]
    ours = add_noise(build(experiment.load(name, overrides).model).double())
    save_pretrained(ours, tmp_path / name, model_type)
    assert_same_function(ours, reload(transformers.AutoModelForCausalLM, tmp_path / name))


@pytest.mark.parametrize("name", CASES)
def test_a_small_one_computes_what_theirs_does(name: str) -> None:
    config, split, overrides = CASES[name]
    theirs = wide_model(transformers.AutoModelForCausalLM.from_config, config())
    ours = build(experiment.load(name, overrides).model).double().eval()
    ours.load_state_dict(named(theirs, split))
    assert_same_function(ours, theirs)


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


PUBLISHED = {
    "qwen3_next_80b_a3b": transformers.Qwen3NextConfig,
    "jamba_52b_a12b": transformers.JambaConfig,
    "minimax_text_456b_a46b": minimax_text,
    "lfm2_1b2": lfm2_1b2,
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
