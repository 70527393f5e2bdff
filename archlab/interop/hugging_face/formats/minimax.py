"""MiniMax-Text-01 as MiniMaxForCausalLM: lightning attention and softmax attention, each with a mixture of experts."""

from __future__ import annotations

from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, _windows, mixtral
from archlab.interop.hugging_face.formats._experts import expert_keys, experts_config
from archlab.interop.hugging_face.formats._hybrid import LINEAR, first_layer, hybrid_key_map, led_by, whole_layers
from archlab.interop.hugging_face.formats._names import knob
from archlab.interop.hugging_face.formats._rope import rope_position
from archlab.interop.hugging_face.formats._windows import FULL

BRANCHES = {FULL: "full_attn", LINEAR: "linear_attn"}
MIXERS = {"attention": FULL, "lightning": LINEAR}
KNOBS = {"alpha": "input_factor", "beta": "branch_factor"}
FACTORS = [f"{branch}_{factor}_factor" for branch in (*BRANCHES.values(), "mlp") for factor in KNOBS]
FIELDS: dict[str, Any] = mixtral.FIELDS | dict.fromkeys(FACTORS, 1.0) | {"rotary_dim": None}
BASE = 1e6  # of the angles, in a file without one
NORM_EPS = 1e-6  # of the norm in lightning attention, whatever rms_norm_eps says
SHIFT = 1e-5  # of the layers' rates of decay, so that none is 0
ENDS: KeyMap = {"model.embed_tokens.weight": "embedding.weight", "model.norm.weight": "norm.weight"}
ATTENTION: KeyMap = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in _decoder.MIXER.items()}
LIGHTNING: KeyMap = {
    "input_layernorm.weight": "norm.weight",
    "self_attn.norm.weight": "mixer.norm.weight",
    "self_attn.output_gate.weight": "mixer.gate.weight",
    "self_attn.out_proj.weight": "mixer.out.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    experts = expert_keys(mixtral.THEIRS, config["num_local_experts"], mixtral.NAMES)
    lightning = LIGHTNING | {"self_attn.qkv_proj.weight": _heads(config["num_attention_heads"], _head_dim(config))}
    layers = {FULL: ATTENTION | experts, LINEAR: lightning | experts}
    return hybrid_key_map(config, ENDS, [layers[kind] for kind in _kinds(config)])


def _heads(num_heads: int, size: int) -> tuple[str, ...]:
    """Return the rows of one projection of theirs: the queries, keys and values of one head after another."""
    parts = ("query", "key", "value")
    heads = [f"{head * size}:{(head + 1) * size}" for head in range(num_heads)]
    return tuple(f"mixer.{part}.weight[{rows}]" for rows in heads for part in parts)


def _head_dim(config: Fields) -> int:
    return int(config["head_dim"] or config["hidden_size"] // config["num_attention_heads"])


def _kinds(config: Fields) -> list[str]:
    if config["layer_types"] is None:
        return [LINEAR if index % 2 else FULL for index in range(config["num_hidden_layers"])]
    return list(config["layer_types"])


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes."""
    if config["rotary_dim"] not in (None, _head_dim(config)):  # published, and ignored by the class
        rotated = f"only head_dim {_head_dim(config)} is, all of which transformers rotates"
        raise ArchlabError(f"rotary_dim {config['rotary_dim']!r}: not represented, {rotated}")
    sizes = (config["intermediate_size"], config["num_local_experts"], config["num_experts_per_tok"])
    ffn = experts_config(*sizes, normalize=True)
    layers = {kind: {"mixer": mixer, "ffn": ffn} for kind, mixer in _mixers(config).items()}
    _windows.window_layers(config, _kinds(config), layers)  # checks the list
    return _decoder.stack_config(
        config, [_layer(config, index, kind, layers) for index, kind in enumerate(_kinds(config))]
    )


def _mixers(config: Fields) -> dict[str, dict[str, Any]]:
    windows = _windows.windows(config)
    attention = {"attention": windows.get(_windows.SLIDING, windows[FULL]), "position": rope_position(config, BASE)}
    sizes = {"num_heads": config["num_attention_heads"], "head_dim": _head_dim(config)}
    lightning = {"type": "lightning", "eps": NORM_EPS, "zero_centered": False}
    return {FULL: attention, LINEAR: lightning | sizes}


def _layer(config: Fields, index: int, kind: str, layers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the YAML data of a layer, whose rate of decay is its own."""
    layer = layers[kind] | {"residual": _residual(config, BRANCHES[kind])}
    if kind == LINEAR:
        rate = 1 - index / (config["num_hidden_layers"] - 1 + SHIFT) + SHIFT
        layer["mixer"] = layer["mixer"] | {"decay_rate": rate}
    return layer


def _residual(config: Fields, branch: str) -> dict[str, Any]:
    """Return the YAML data of a residual; raise ArchlabError where its two branches have different factors."""
    for factor in KNOBS:
        mlp, mixer = f"mlp_{factor}_factor", f"{branch}_{factor}_factor"
        if config[mlp] != config[mixer]:
            raise ArchlabError(f"{mlp} {config[mlp]!r}: not represented, only {mixer} {config[mixer]!r} is")
    return {"type": "normed_skip"} | {name: config[f"mlp_{factor}_factor"] for factor, name in KNOBS.items()}


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    kinds = [MIXERS.get(layer["mixer"]["type"], FULL) for layer in whole_layers(model)]
    return mixtral.to_hf_config(led_by(model, "attention")) | _factors(model) | {"layer_types": kinds}


def _factors(model: Fields) -> dict[str, Any]:
    any_layer = model["layers"][0]
    layers = {BRANCHES[kind]: first_layer(model, mixer) for mixer, kind in MIXERS.items()} | {"mlp": any_layer}
    return {
        f"{branch}_{factor}_factor": knob(layer or any_layer, "residual", name, 1.0)
        for branch, layer in layers.items()
        for factor, name in KNOBS.items()
    }


FORMAT = CheckpointFormat(
    architecture="MiniMaxForCausalLM",
    fields=FIELDS,
    # The class always takes the normalized input as the residual, which some files say.
    fixed={**mixtral.FORMAT.fixed, "postnorm": (True,)},
    # The size of blocks does not change the result.
    ignored=(*mixtral.FORMAT.ignored, "block_size"),
    aliases={"num_experts": "num_local_experts"},
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
)
