"""OLMoE as OlmoeForCausalLM: LLaMA with a mixture of experts, and norms of all heads' queries and keys together."""

from __future__ import annotations

from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder
from archlab.interop.hugging_face.formats._experts import expert_keys, experts_config, experts_of, sparse_key_map
from archlab.interop.hugging_face.formats._rope import rope_position

FIELDS: dict[str, Any] = _decoder.FIELDS | {
    "vocab_size": 50304,
    "hidden_size": 2048,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}
BLOCK = _decoder.BLOCK | {"self_attn.q_norm": "mixer.wide_query_norm", "self_attn.k_norm": "mixer.wide_key_norm"}
NAMES = {ours: f"{ours}_proj" for ours in ("gate", "up", "down")}


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    _decoder.check_layer_types(config, sliding=False)
    width, heads, head_dim = config["hidden_size"], config["num_attention_heads"], config["head_dim"]
    if head_dim and head_dim * heads != width:  # the class's norms have the width of the model
        raise ArchlabError(f"head_dim {head_dim!r}: not represented, only hidden_size / num_attention_heads is")
    mixer = {
        "attention": {"window": "full", "window_size": config["max_position_embeddings"]},
        "position": rope_position(config),
        "wide_qk_norm": _decoder.rms(config, False),
    }
    sizes = (config["intermediate_size"], config["num_experts"], config["num_experts_per_tok"])
    ffn = experts_config(*sizes, normalize=config["norm_topk_prob"])
    return _decoder.stack_config(config, [{"repeat": config["num_hidden_layers"], "mixer": mixer, "ffn": ffn}])


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    experts = experts_of(model)
    return _decoder.decoder_fields(model) | {
        "attention_bias": model["layers"][0]["mixer"].get("bias", False),
        "hidden_act": "silu",
        "intermediate_size": experts["hidden_dim"],
        "num_experts": experts["num_experts"],
        "num_experts_per_tok": experts["top_k"],
        "norm_topk_prob": experts["normalize"],
    }


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's."""
    experts = expert_keys("mlp", config["num_experts"], NAMES)
    return sparse_key_map(_decoder.key_map(config, BLOCK), range(config["num_hidden_layers"]), experts)


FORMAT = CheckpointFormat(
    architecture="OlmoeForCausalLM",
    fields=FIELDS,
    fixed=_decoder.FIXED | {"hidden_act": ("silu", "swish"), "clip_qkv": (None,)},
    # The loss of the balance is added where a model is trained.
    ignored=(*_decoder.IGNORED, "router_aux_loss_coef", "output_router_logits"),
    aliases={"num_local_experts": "num_experts"},
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
