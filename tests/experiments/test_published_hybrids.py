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
    "model.norm": "norm",
    "input_layernorm": "norm",
    "post_attention_layernorm": "ffn_norm",
    "linear_attn.": "mixer.",
    "self_attn.": "mixer.",
    "mlp.gate.": "ffn.router.",
    "mlp.": "ffn.",
    "experts.down_proj": "experts.down",
    "shared_expert.": "shared.",
    "shared_expert_gate": "shared_gate",
    "ffn.gate_proj": "ffn.gate",
    "shared.gate_proj": "shared.gate",
    "ffn.up_proj": "ffn.up",
    "shared.up_proj": "shared.up",
    "down_proj": "down",
    ".q_proj": ".query",
    ".k_proj": ".key",
    ".v_proj": ".value",
    ".o_proj": ".out",
    "q_norm": "query_norm",
    "k_norm": "key_norm",
    "dt_bias": "step.bias",
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


def qwen3_next(name: str, tensor: Tensor) -> Named:
    """Each key head's queries, keys, values and gates, then fractions and steps, lie side by side in theirs."""
    if name.endswith("in_proj_qkvz.weight"):
        parts = ("query.map", "key.map", "value.map", "mixed.gate")
        for part, rows in zip(parts, tensor.unflatten(0, (2, 192)).split((32, 32, 64, 64), 1), strict=True):
            yield name.replace("in_proj_qkvz", part), rows.flatten(0, 1)
    elif name.endswith("in_proj_ba.weight"):
        for part, rows in zip(("fraction", "step"), tensor.unflatten(0, (2, 2, 2)).unbind(1), strict=True):
            yield name.replace("in_proj_ba", part), rows.flatten(0, 1)
    elif name.endswith("conv1d.weight"):
        for part, rows in zip(("query", "key", "value"), tensor[:, 0].split((64, 64, 128)), strict=True):
            yield name.replace("conv1d", f"{part}.ema"), rows.T
    elif "blocks.3" in name and name.endswith("mixer.query.weight"):
        query, gate = tensor.unflatten(0, (4, 2, 32)).unbind(1)
        yield from ((name, query.flatten(0, 1)), (name.replace("query", "gate"), gate.flatten(0, 1)))
    elif name.endswith("mixer.norm.weight"):
        yield name.replace("norm", "mixed.norm"), tensor - 1  # the scale here is 1 + weight
    else:
        yield name.replace("A_log", "log_rate").replace("out_proj", "mixed.out"), tensor


def small_qwen3_next() -> Any:
    widths = {"head_dim": 32, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
    delta = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    heads = {"linear_key_head_dim": 32, "linear_value_head_dim": 32}
    experts = {"num_experts": 16, "num_experts_per_tok": 4, "num_hidden_layers": 4}
    rope = {"rope_parameters": ROPE | {"partial_rotary_factor": 0.25}}
    return transformers.Qwen3NextConfig(**SMALL, **EAGER, **widths, **delta, **heads, **experts, **rope)


IMPORTED = {
    "jamba_tiny": ("jamba", []),
    # The published model rotates half of each head, which transformers' port does not know.
    "minimax_text_tiny": ("minimax", ["model.layers[3].mixer.position.fraction=1.0"]),
    "lfm2_tiny": ("lfm2", []),
    "falcon_h1_tiny": ("falcon_h1", []),
    "nemotron_h_tiny": ("nemotron_h", []),
}


@pytest.mark.parametrize("name", IMPORTED)
def test_a_small_one_computes_what_its_export_does(name: str, tmp_path: Path) -> None:
    model_type, overrides = IMPORTED[name]
    ours = add_noise(build(experiment.load(name, overrides).model).double())
    save_pretrained(ours, tmp_path / name, model_type)
    assert_same_function(ours, reload(transformers.AutoModelForCausalLM, tmp_path / name))


def test_a_small_qwen3_next_computes_what_theirs_does() -> None:
    theirs = wide_model(transformers.AutoModelForCausalLM.from_config, small_qwen3_next())
    ours = build(experiment.load("qwen3_next_tiny").model).double().eval()
    ours.load_state_dict(named(theirs, qwen3_next))
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


def falcon_h1_0b5() -> Any:
    sizes = {"vocab_size": 32784, "hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 36}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64}
    mamba = {"mamba_d_ssm": 1536, "mamba_n_heads": 24, "mamba_d_state": 128}
    return transformers.FalconH1Config(**sizes, **heads, **mamba)


def nemotron_h_8b() -> Any:
    pattern = ["M-M-M-M*-", *["M-M-M-M-M*-"] * 3, "M-M-M-M-M-"]
    return transformers.NemotronHConfig(hybrid_override_pattern="".join(pattern), max_position_embeddings=8192)


PUBLISHED = {
    "qwen3_next_80b_a3b": transformers.Qwen3NextConfig,
    "jamba_52b_a12b": transformers.JambaConfig,
    "minimax_text_456b_a46b": minimax_text,
    "lfm2_1b2": lfm2_1b2,
    "falcon_h1_0b5": falcon_h1_0b5,
    "nemotron_h_8b": nemotron_h_8b,
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
