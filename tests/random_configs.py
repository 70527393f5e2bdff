"""Random small configurations of transformers' classes, by type: every field that changes what the class computes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Config = dict[str, Any]
CONTEXT = 64
TOKENS = {"eos_token_id": None, "pad_token_id": None, "bos_token_id": None}
FULL, SLIDING, LINEAR = "full_attention", "sliding_attention", "linear_attention"


def pick(rng: random.Random, **choices: list[Any]) -> Config:
    """Return some of the fields, each with one of its values; the others keep the class's own."""
    return {field: rng.choice(values) for field, values in choices.items() if rng.random() < 0.7}


def divisor(rng: random.Random, number: int) -> int:
    return rng.choice([each for each in range(1, number + 1) if number % each == 0])


def decoder(rng: random.Random) -> Config:
    """Return the sizes of a decoder with attention; the heads may be wider or narrower than the model's width."""
    heads, width = rng.choice([1, 2, 3, 4, 5, 6]), rng.choice([2, 4, 6, 8, 10])
    sizes = {
        "vocab_size": rng.randint(11, 70),
        "hidden_size": heads * width,
        "intermediate_size": rng.randint(3, 50),
        "num_hidden_layers": rng.randint(1, 4),
        "num_attention_heads": heads,
        "num_key_value_heads": divisor(rng, heads),
        "max_position_embeddings": CONTEXT,
    }
    return TOKENS | sizes | pick(rng, rms_norm_eps=[1e-6, 1e-5, 1e-2], tie_word_embeddings=[True, False])


def wide(rng: random.Random) -> Config:
    return {"head_dim": rng.choice([2, 4, 6, 10, 16])}


def rope(rng: random.Random, kinds: tuple[str, ...] = ("default", "linear", "llama3", "yarn")) -> Config:
    kind, trained = rng.choice(kinds), rng.choice([8, 16, 32])
    own = {
        "default": {},
        "linear": {"factor": rng.choice([0.5, 1.0, 2.5, 8.0])},
        "llama3": {
            "factor": rng.choice([2.0, 8.0]),
            "low_freq_factor": rng.choice([1.0, 0.5]),
            "high_freq_factor": rng.choice([2.0, 4.0]),
            "original_max_position_embeddings": trained,
        },
        "yarn": {"factor": rng.choice([2.0, 4.0]), "original_max_position_embeddings": trained}
        | pick(rng, beta_fast=[8.0, 32.0], beta_slow=[1.0, 2.0], truncate=[True, False], attention_factor=[0.8, 1.3]),
    }[kind]
    return {"rope_type": kind, "rope_theta": rng.choice([100.0, 1e4, 5e5])} | own


def scaled(rng: random.Random) -> Config:
    return {"rope_parameters": rope(rng)} if rng.random() < 0.8 else {}


def kinds(rng: random.Random, config: Config, *names: str) -> list[str]:
    return [rng.choice(names) for _ in range(config["num_hidden_layers"])]


def llama(rng: random.Random) -> Config:
    own = pick(rng, attention_bias=[True, False], mlp_bias=[True, False])
    return decoder(rng) | scaled(rng) | own | (wide(rng) if rng.random() < 0.5 else {})


def mistral(rng: random.Random) -> Config:
    return decoder(rng) | scaled(rng) | wide(rng) | {"sliding_window": rng.choice([None, 1, 3, 5, 50])}


def experts(rng: random.Random, count: str, names: str = "intermediate_size") -> Config:
    number = rng.choice([1, 2, 3, 5, 8])
    return {count: number, "num_experts_per_tok": rng.randint(1, number), names: rng.choice([4, 12, 20])}


def mixtral(rng: random.Random) -> Config:
    return mistral(rng) | experts(rng, "num_local_experts")


def olmoe(rng: random.Random) -> Config:
    own = pick(rng, norm_topk_prob=[True, False], attention_bias=[True, False])
    return decoder(rng) | scaled(rng) | experts(rng, "num_experts") | own


def gemma(rng: random.Random) -> Config:
    return decoder(rng) | wide(rng) | scaled(rng) | pick(rng, attention_bias=[True, False])


def gemma2(rng: random.Random) -> Config:
    config = gemma(rng) | pick(
        rng,
        query_pre_attn_scalar=[3, 8, 144],
        attn_logit_softcapping=[None, 0.7, 30.0],
        final_logit_softcapping=[None, 1.3],
    )
    config |= {"sliding_window": rng.choice([2, 4, 7, 50])}  # of 1 the class makes 0 where it looks both ways
    return config | ({"layer_types": kinds(rng, config, FULL, SLIDING)} if rng.random() < 0.5 else {})


def gemma3_text(rng: random.Random) -> Config:
    config = gemma2(rng) | {"num_hidden_layers": rng.randint(1, 7)}
    config.pop("attn_logit_softcapping", None)
    config.pop("layer_types", None)
    ropes = {kind: rope(rng, ("default", "linear")) for kind in (FULL, SLIDING)}
    listed = {"layer_types": kinds(rng, config, FULL, SLIDING)} if rng.random() < 0.5 else {}
    return config | {"rope_parameters": ropes} | listed


def qwen3(rng: random.Random) -> Config:
    config = llama(rng) | wide(rng)
    config.pop("mlp_bias", None)
    if rng.random() < 0.5:
        return config
    config |= {"use_sliding_window": True, "sliding_window": rng.choice([1, 5, 50])}
    if rng.random() < 0.5:
        return config | {"layer_types": kinds(rng, config, FULL, SLIDING)}
    return config | {"max_window_layers": rng.randint(0, config["num_hidden_layers"])}


def qwen3_moe(rng: random.Random) -> Config:
    config = llama(rng) | wide(rng) | experts(rng, "num_experts", "moe_intermediate_size")
    config.pop("mlp_bias", None)
    config |= pick(rng, norm_topk_prob=[True, False], decoder_sparse_step=[1, 2, 3], mlp_only_layers=[[], [0], [1, 2]])
    return config | ({"use_sliding_window": True, "sliding_window": 5} if rng.random() < 0.3 else {})


def recurrent_gemma(rng: random.Random) -> Config:
    config = decoder(rng)
    heads, depth = config["num_attention_heads"], config["num_hidden_layers"]
    config |= {"attention_window_size": rng.choice([1, 5, 50]), "intermediate_size": rng.randint(4, 50)}
    config |= {"block_types": [rng.choice(["recurrent", "attention"]) for _ in range(rng.randint(1, depth))]}
    config |= pick(
        rng,
        lru_width=[heads * 3, heads * 7],
        conv1d_width=[2, 3, 4],
        logits_soft_cap=[1.3, 30.0],
        attention_bias=[True, False],
    )
    share = rng.choice([0.5, 1.0])
    if config["hidden_size"] // heads % 4:
        share = 1.0
    angles = {"rope_type": "default", "rope_theta": rng.choice([300.0, 1e4]), "partial_rotary_factor": share}
    return config | {"rope_parameters": angles}


def mpt(rng: random.Random) -> Config:
    heads = rng.choice([1, 2, 3, 4, 6, 7, 8])  # whose slopes are powers of two: others are rounded to float32
    sizes = {"d_model": heads * rng.choice([1, 3, 4]), "n_heads": heads, "n_layers": rng.randint(1, 3)}
    own = pick(rng, layer_norm_epsilon=[1e-5, 1e-2], tie_word_embeddings=[True, False])
    return TOKENS | sizes | {"vocab_size": rng.randint(11, 70), "max_seq_len": CONTEXT} | own


def rwkv(rng: random.Random) -> Config:
    sizes = {
        "vocab_size": rng.randint(11, 70),
        "hidden_size": rng.randint(4, 20),
        "num_hidden_layers": rng.randint(2, 5),
    }
    own = pick(
        rng,
        attention_hidden_size=[4, 9, 24],
        intermediate_size=[5, 40],
        rescale_every=[0, 1, 2, 6],
        layer_norm_epsilon=[1e-5, 1e-3],
        tie_word_embeddings=[True, False],
    )
    return TOKENS | {"vocab_size": rng.randint(11, 70)} | sizes | own


def mamba(rng: random.Random) -> Config:
    sizes = {
        "vocab_size": rng.randint(11, 70),
        "hidden_size": rng.randint(4, 24),
        "num_hidden_layers": rng.randint(1, 3),
    }
    own = pick(
        rng,
        state_size=[1, 3, 8],
        expand=[1, 2, 3],
        conv_kernel=[2, 3, 4, 5],
        use_bias=[True, False],
        use_conv_bias=[True, False],
        time_step_rank=["auto", 1, 5],
        layer_norm_epsilon=[1e-5, 1e-2],
        tie_word_embeddings=[True, False],
    )
    return TOKENS | {"vocab_size": rng.randint(11, 70)} | sizes | own


def mamba2(rng: random.Random) -> Config:
    groups = rng.choice([1, 2, 3])
    heads, expand = groups * rng.choice([1, 2, 4]), rng.choice([1, 2, 3])
    width = rng.choice([2, 4, 6]) * expand
    config = mamba(rng)
    config.pop("time_step_rank", None)
    sizes = {"n_groups": groups, "num_heads": heads, "head_dim": width, "hidden_size": heads * width // expand}
    return (
        config | sizes | {"expand": expand, "chunk_size": rng.choice([4, 8, 16]), "state_size": rng.choice([1, 5, 8])}
    )


def xlstm(rng: random.Random) -> Config:
    heads = rng.choice([1, 2, 3, 4])
    dim = heads * rng.choice([4, 8, 10])
    depth = rng.randint(1, 3)
    own = pick(
        rng,
        norm_eps=[1e-6, 1e-3],
        ffn_proj_factor=[1.3, 2.667],
        ffn_round_up_to_multiple_of=[1, 7, 64],
        gate_soft_cap=[2.0, 15.0],
        output_logit_soft_cap=[0.8, 30.0],
        qk_dim_factor=[0.5, 1.0, 2.0],
        v_dim_factor=[0.5, 1.0, 2.0],
        chunk_size=[16, 64],
    )
    sizes = {"vocab_size": rng.randint(11, 70), "hidden_size": dim, "num_heads": heads, "num_blocks": depth}
    return TOKENS | sizes | {"num_hidden_layers": depth, "use_cache": False} | own


def lfm2(rng: random.Random) -> Config:
    config = decoder(rng)
    config["norm_eps"] = config.pop("rms_norm_eps", 1e-5)
    own = pick(
        rng,
        conv_bias=[True, False],
        conv_L_cache=[2, 3, 5],
        block_multiple_of=[1, 5, 8],
        block_ffn_dim_multiplier=[1.0, 1.7],
        block_auto_adjust_ff_dim=[True, False],
    )
    # Without any convolution it is a Qwen3, and written as one.
    return config | scaled(rng) | own | {"layer_types": ["conv", *kinds(rng, config, FULL, "conv")[1:]]}


def minimax(rng: random.Random) -> Config:
    config = mixtral(rng)
    if rng.random() < 0.5:
        config["sliding_window"] = None
    config |= {"block_size": rng.choice([4, 5, 256]), "layer_types": kinds(rng, config, FULL, LINEAR)}
    alpha, beta = rng.choice([1.0, 3.5]), rng.choice([1.0, 0.7])
    for branch in ("full_attn", "linear_attn", "mlp"):
        config |= {f"{branch}_alpha_factor": alpha, f"{branch}_beta_factor": beta}
    return config


def jamba(rng: random.Random) -> Config:
    config = decoder(rng) | experts(rng, "num_experts")
    periods = (rng.randint(1, 4), rng.randint(1, 3))
    own = pick(
        rng,
        mamba_d_state=[1, 5],
        mamba_d_conv=[2, 4],
        mamba_expand=[1, 2, 3],
        mamba_dt_rank=["auto", 1, 7],
        mamba_conv_bias=[True, False],
        mamba_proj_bias=[True, False],
    )
    config |= {"attn_layer_period": periods[0], "attn_layer_offset": rng.randrange(periods[0])}
    return config | {"expert_layer_period": periods[1], "expert_layer_offset": rng.randrange(periods[1])} | own


def falcon_h1(rng: random.Random) -> Config:
    config, groups = decoder(rng), rng.choice([1, 2, 3])
    heads = groups * rng.choice([1, 2])
    factor = [0.3, 1.0, 1.7]
    own = pick(
        rng,
        attention_bias=[True, False],
        mlp_bias=[True, False],
        mamba_conv_bias=[True, False],
        mamba_norm_before_gate=[True, False],
        mamba_rms_norm=[True, False],
        embedding_multiplier=factor,
        lm_head_multiplier=factor,
        key_multiplier=factor,
        attention_in_multiplier=factor,
        attention_out_multiplier=factor,
        ssm_in_multiplier=factor,
        ssm_out_multiplier=factor,
        ssm_multipliers=[[0.5, 0.8, 1.0, 1.3, 1.6]],
        mlp_multipliers=[[0.5, 1.3]],
    )
    sizes = {"mamba_n_groups": groups, "mamba_n_heads": heads, "mamba_d_ssm": heads * rng.choice([2, 4, 6])}
    sizes |= {"mamba_d_state": rng.choice([1, 7]), "mamba_d_conv": rng.choice([2, 4]), "mamba_chunk_size": 8}
    biased = rng.random() < 0.5
    own |= {"mamba_proj_bias": biased, "projectors_bias": biased}
    return config | scaled(rng) | sizes | own | (wide(rng) if rng.random() < 0.5 else {})


def nemotron_h(rng: random.Random) -> Config:
    config, groups = decoder(rng), rng.choice([1, 2, 3])
    for field in ("rms_norm_eps", "tie_word_embeddings", "num_hidden_layers"):
        config.pop(field, None)
    layers = []
    for _ in range(rng.randint(1, 3)):
        layers += [rng.choice([LINEAR, FULL])] + ["mlp"] * rng.choice([0, 1])
    own = pick(
        rng,
        use_bias=[True, False],
        mlp_bias=[True, False],
        use_conv_bias=[True, False],
        conv_kernel=[2, 3, 4],
        layer_norm_epsilon=[1e-5, 1e-3],
        time_step_min=[1e-4, 0.001, 0.4],
    )
    sizes = {"n_groups": groups, "mamba_num_heads": groups * rng.choice([1, 2]), "mamba_head_dim": rng.choice([2, 5])}
    sizes |= {"ssm_state_size": rng.choice([1, 7]), "chunk_size": 8, "layers_block_type": layers}
    return config | wide(rng) | sizes | own


def vit(rng: random.Random) -> Config:
    heads, patch = rng.choice([1, 2, 3, 5]), rng.choice([2, 3, 5])
    sizes = {"hidden_size": heads * rng.choice([1, 3, 4]), "num_attention_heads": heads, "patch_size": patch}
    sizes |= {
        "image_size": patch * rng.randint(1, 4),
        "num_channels": rng.randint(1, 4),
        "num_labels": rng.randint(2, 7),
    }
    own = pick(rng, hidden_act=["gelu", "relu", "silu"], layer_norm_eps=[1e-12, 1e-3])
    return sizes | {"intermediate_size": rng.randint(3, 30), "num_hidden_layers": rng.randint(1, 3)} | own


DRAWS: dict[str, tuple[str, Callable[[random.Random], Config]]] = {
    "llama": ("Llama", llama),
    "mistral": ("Mistral", mistral),
    "mixtral": ("Mixtral", mixtral),
    "olmoe": ("Olmoe", olmoe),
    "gemma": ("Gemma", gemma),
    "gemma2": ("Gemma2", gemma2),
    "gemma3_text": ("Gemma3Text", gemma3_text),
    "qwen3": ("Qwen3", qwen3),
    "qwen3_moe": ("Qwen3Moe", qwen3_moe),
    "recurrent_gemma": ("RecurrentGemma", recurrent_gemma),
    "mpt": ("Mpt", mpt),
    "rwkv": ("Rwkv", rwkv),
    "mamba": ("Mamba", mamba),
    "mamba2": ("Mamba2", mamba2),
    "xlstm": ("xLSTM", xlstm),
    "lfm2": ("Lfm2", lfm2),
    "minimax": ("MiniMax", minimax),
    "jamba": ("Jamba", jamba),
    "falcon_h1": ("FalconH1", falcon_h1),
    "nemotron_h": ("NemotronH", nemotron_h),
    "vit": ("ViT", vit),
    "deit": ("DeiT", vit),
}
