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
