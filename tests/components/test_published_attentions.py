"""Attention layers of transformers whose models have parts that archlab lacks: the layer alone, in float64."""

from typing import Any

import pytest
import torch
from hugging_face_helpers import random_model, transformers
from torch import Tensor, nn

from archlab.config.spec import parse

D, T = 20, 11
SHARED = {
    "hidden_size": D,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}


MLA = {
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 9,
    "kv_lora_rank": 7,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}


def build(knobs: dict[str, Any]) -> nn.Module:
    heads = {"num_heads": 6, "num_kv_heads": 2, "head_dim": 8}
    spec = parse({"type": "attention", **heads, **knobs}, "mixer", "mixer")
    return spec.factory()(D).double().eval()


def copy(ours: nn.Module, theirs: nn.Module, names: dict[str, str]) -> None:
    """Copy each of their parameters, under its name here."""
    given = dict(theirs.named_parameters())
    ours.load_state_dict({names[name]: tensor for name, tensor in given.items()})


def call(theirs: nn.Module, rotary: nn.Module, x_BTD: Tensor, window: int) -> Tensor:
    steps = torch.arange(x_BTD.shape[1])
    hidden = (steps[:, None] < steps) | (steps[:, None] - steps >= window)
    mask = torch.zeros(hidden.shape, dtype=x_BTD.dtype).masked_fill(hidden, -torch.inf)[None, None]
    return theirs(x_BTD, rotary(x_BTD, steps[None]), mask)[0]


def projections(**others: str) -> dict[str, str]:
    ours = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
    return {f"{name}.{part}": f"{ours[name]}.{part}" for name in ours for part in ("weight", "bias")} | others


def assert_same(ours: nn.Module, theirs: nn.Module, rotary: nn.Module, window: int) -> None:
    x = torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    y, expected = ours(x)[0], call(theirs, rotary, x, window)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)  # their angles are float32
    weight = torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad((out * weight).sum(), x)[0] for out in (y, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)
    streamed, state = [], ours.init_state(2)
    for piece in x.split([4, 1, 6], 1):
        part, state = ours(piece, state)
        streamed.append(part)
    torch.testing.assert_close(torch.cat(streamed, 1), y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("window", [5, 64])
def test_attention_with_sinks_is_that_of_gpt_oss(window: int) -> None:
    from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss

    rope = {"rope_type": "default", "rope_theta": 500.0}
    config = transformers.GptOssConfig(**SHARED, rope_parameters=rope, sliding_window=5)
    theirs = gpt_oss.GptOssAttention(config, layer_idx=0 if window == 5 else 1).double()
    torch.nn.init.normal_(theirs.sinks)
    attention = {"type": "softmax", "sinks": True, "window": "sliding", "window_size": window}
    position = {"type": "rope", "base": 500.0, "interleaved": False}
    ours = build({"bias": True, "attention": attention, "position": position})
    copy(ours, theirs, projections(sinks="attention.sink"))
    assert_same(ours, theirs, gpt_oss.GptOssRotaryEmbedding(config), window)


def test_gated_attention_with_partial_rope_is_that_of_qwen3_next() -> None:
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen3_next

    rope = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
    config = transformers.Qwen3NextConfig(**SHARED, rope_parameters=rope, attention_bias=True, rms_norm_eps=1e-3)
    theirs = random_model(lambda config: qwen3_next.Qwen3NextAttention(config, 0), config, torch.float64)
    norm = {"type": "rms", "eps": 1e-3, "zero_centered": True}
    position = {"type": "rope", "base": 500.0, "interleaved": False, "fraction": 0.5}
    knobs = {"bias": True, "output_gate": "feature", "qk_norm": norm, "position": position}
    ours = build(knobs | {"attention": {"type": "softmax", "window_size": 64}})
    names = projections(**{"q_norm.weight": "query_norm.weight", "k_norm.weight": "key_norm.weight"})
    given = {names[name]: tensor for name, tensor in theirs.named_parameters()}
    for part in ("weight", "bias"):  # each head's query, then its gate
        both = given[f"query.{part}"].unflatten(0, (6, 2, 8))
        given[f"query.{part}"], given[f"gate.{part}"] = (both[:, i].flatten(0, 1) for i in (0, 1))
    ours.load_state_dict(given)
    assert_same(ours, theirs, qwen3_next.Qwen3NextRotaryEmbedding(config), 64)


def mla_names(has_query_latent: bool) -> dict[str, str]:
    query = {"q_a_proj": "query_down", "q_a_layernorm": "query_norm", "q_b_proj": "query_up"}
    ours = (query if has_query_latent else {"q_proj": "query_up"}) | {
        "kv_a_layernorm": "latent_norm",
        "kv_b_proj": "attention.up",
        "o_proj": "out",
    }
    names = {f"{theirs}.weight": f"{own}.weight" for theirs, own in ours.items()}
    return names | {f"{theirs}.bias": f"{ours[theirs]}.bias" for theirs in ("q_a_proj", "o_proj") if theirs in ours}


@pytest.mark.parametrize("query_rank", [None, 13])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("window", [5, 64])
def test_latent_attention_is_that_of_deepseek_v3(
    query_rank: int | None, bias: bool, interleaved: bool, window: int
) -> None:
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

    own = {"q_lora_rank": query_rank, "attention_bias": bias, "rope_interleave": interleaved, "num_key_value_heads": 6}
    config = transformers.DeepseekV3Config(**(SHARED | MLA | own | {"head_dim": 6}))
    theirs = random_model(lambda config: deepseek.DeepseekV3Attention(config, 0), config, torch.float64)
    knobs = {
        "num_heads": 6,
        "latent_dim": 7,
        "query_latent_dim": query_rank,
        "head_dim": 10,
        "position_dim": 6,
        "value_head_dim": 9,
        "bias": bias,
        "norm": {"type": "rms", "eps": 1e-6, "zero_centered": False},
        "window": "sliding",
        "window_size": window,
        "position": {"type": "rope", "base": 500.0, "interleaved": interleaved},
    }
    ours = parse({"type": "mla", **knobs}, "mixer", "mixer").factory()(D).double().eval()
    names = mla_names(query_rank is not None)
    given = {names.get(name, name): tensor for name, tensor in theirs.named_parameters()}
    for part in ("weight", "bias")[: 1 + bias]:
        both = given.pop(f"kv_a_proj_with_mqa.{part}")
        given[f"latent_down.{part}"], given[f"place_down.{part}"] = both.split((7, 6))
    ours.load_state_dict(given)
    assert_same(ours, theirs, deepseek.DeepseekV3RotaryEmbedding(config), window)


def test_a_latent_layer_of_deepseek_v3s_size_has_its_parameters() -> None:
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

    sizes = {"latent_dim": 512, "query_latent_dim": 1536, "head_dim": 128, "position_dim": 64, "num_heads": 128}
    with torch.device("meta"):
        theirs = deepseek.DeepseekV3Attention(transformers.DeepseekV3Config(), 0)
        ours = parse({"type": "mla", **sizes}, "mixer", "mixer").factory()(7168)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in (ours, theirs)]
    assert counts == [187_107_328, 187_107_328]
