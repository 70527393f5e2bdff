"""Falcon-H1 as FalconH1ForCausalLM: Mamba-2 and attention side by side in every layer, and a factor of each part."""

from __future__ import annotations

import math
from typing import Any

from archlab.errors import ArchlabError
from archlab.interop._formats import CheckpointFormat, Fields, KeyMap
from archlab.interop.hugging_face.formats import _decoder, jamba, mamba, mamba2
from archlab.interop.hugging_face.formats._names import knob, layer_keys, prefix
from archlab.interop.hugging_face.formats._rope import rope_position

FIELDS: dict[str, Any] = {
    "vocab_size": 128000,
    "tie_word_embeddings": False,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "attention_dropout": 0.0,
    "attention_bias": False,
    "mlp_bias": False,
    "projectors_bias": False,
    "rope_parameters": None,
    "rope_theta": None,
    "rope_scaling": None,
    "mamba_d_ssm": 1024,
    "mamba_n_heads": 128,
    "mamba_d_head": "auto",
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "mamba_norm_before_gate": True,
    "mamba_rms_norm": False,
    "time_step_limit": mamba2.FIELDS["time_step_limit"],
    "embedding_multiplier": 1.0,
    "lm_head_multiplier": 1.0,
    "key_multiplier": 1.0,
    "attention_in_multiplier": 1.0,
    "attention_out_multiplier": 1.0,
    "ssm_in_multiplier": 1.0,
    "ssm_out_multiplier": 1.0,
    "ssm_multipliers": None,
    "mlp_multipliers": None,
}
# How the scan is computed, and how its steps were drawn.
IGNORED = ("mamba_chunk_size", "time_step_floor", "time_step_max", "time_step_min", "time_step_rank")
LAYER: KeyMap = jamba.LAYER | jamba.DENSE
# Their factors of the mixers and of the projections in them, as the knobs are called here.
SIDES = {
    "ssm_in_multiplier": "first_input_factor",
    "ssm_out_multiplier": "first_output_factor",
    "attention_in_multiplier": "second_input_factor",
    "attention_out_multiplier": "second_output_factor",
}
PROJECTIONS = ("z_factor", "x_factor", "B_factor", "C_factor", "dt_factor")
GATES = ("gate_factor", "output_factor")
NORMS = {(True, True): "before_gate", (True, False): "after_gate"}  # by mamba_rms_norm and mamba_norm_before_gate
SIZES = {
    "mamba_d_state": "state_dim",
    "mamba_d_conv": "conv_size",
    "mamba_expand": "expand",
    "mamba_n_groups": "num_groups",
    "mamba_conv_bias": "conv_bias",
    "mamba_proj_bias": "bias",
}


def key_map(config: Fields) -> KeyMap:
    """Map each tensor name of transformers to archlab's name or names."""
    layer = LAYER | _mamba_keys(config) | _attention_keys(config)
    layer |= _biases(jamba.DENSE) if config["mlp_bias"] else {}
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": "head.weight"}
    return jamba.ENDS | layer_keys(config["num_hidden_layers"], "model.layers", layer) | head


def _mamba_keys(config: Fields) -> KeyMap:
    parts = mamba2.MIXER | (mamba2.BIASES if config["mamba_proj_bias"] else {})
    parts |= mamba.CONV_BIAS if config["mamba_conv_bias"] else {}
    if not config["mamba_rms_norm"]:
        parts.pop("norm.weight")
    return {f"mamba.{theirs}": prefix("mixer.first", ours) for theirs, ours in parts.items()}


def _attention_keys(config: Fields) -> KeyMap:
    weights: KeyMap = {name: str(ours).replace("mixer", "mixer.second") for name, ours in jamba.ATTENTION.items()}
    return weights | (_biases(weights) if config["attention_bias"] else {})


def _biases(weights: KeyMap) -> KeyMap:
    return {name.replace("weight", "bias"): str(ours).replace("weight", "bias") for name, ours in weights.items()}


def to_archlab_config(config: Fields) -> dict[str, Any]:
    """Return the YAML data of the model that a configuration describes; raise ArchlabError for an unsupported value."""
    mixer = {"type": "parallel", "first": _mamba_config(config), "second": _attention_config(config)}
    mixer |= {name: config[field] for field, name in SIDES.items()}
    ffn = {"type": "swiglu"} | _factors(config, "mlp_multipliers", GATES)
    layer = {"repeat": config["num_hidden_layers"], "mixer": mixer, "ffn": ffn}
    return _decoder.stack_config(config, [layer]) | {
        "embedding": {"type": "tokens", "factor": _unless_one(config["embedding_multiplier"])},
        "output_factor": config["lm_head_multiplier"],
    }


def _factors(config: Fields, field: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the knobs of a list of factors."""
    values = config[field] or [1.0] * len(names)
    if len(values) != len(names):
        raise ArchlabError(f"{field} {values!r} is not a list of {len(names)} numbers")
    return dict(zip(names, values, strict=True))


def _mamba_config(config: Fields) -> dict[str, Any]:
    mamba2.check_steps(config)
    if config["projectors_bias"] != config["mamba_proj_bias"]:
        own, inner = config["projectors_bias"], config["mamba_proj_bias"]
        raise ArchlabError(f"projectors_bias {own!r}: not represented, only mamba_proj_bias {inner!r} is")
    width = config["mamba_d_ssm"] or config["mamba_expand"] * config["hidden_size"]
    size = width // config["mamba_n_heads"]
    if config["mamba_d_head"] not in ("auto", size):
        raise ArchlabError(f"mamba_n_heads {config['mamba_n_heads']} of {config['mamba_d_head']} do not fill {width}")
    norm = NORMS.get((config["mamba_rms_norm"], config["mamba_norm_before_gate"]), "none")
    own = {"width": width, "head_dim": size, "output_norm": norm, "eps": config["rms_norm_eps"]}
    own |= {name: config[field] for field, name in SIZES.items()}
    return {"type": "mamba2"} | own | _factors(config, "ssm_multipliers", PROJECTIONS)


def _attention_config(config: Fields) -> dict[str, Any]:
    full = {"window": "full", "window_size": config["max_position_embeddings"]}
    attention = _decoder.attention_config(config, {"attention": full, "position": rope_position(config)})
    # Keys that are multiplied by a number have scores that are.
    factor = _unless_one(config["key_multiplier"])
    return attention | {"scale": factor and factor * attention["head_dim"] ** -0.5}


def _unless_one(factor: float) -> float | None:
    return None if factor == 1 else factor


def to_hf_config(model: Fields) -> dict[str, Any]:
    """Return the configuration closest to a model's YAML data."""
    layer = model["layers"][0]
    mixer, ffn = layer["mixer"], layer["ffn"]
    first, second = mixer["first"], mixer["second"]
    fields = _decoder.decoder_fields({**model, "layers": [{**entry, "mixer": second} for entry in model["layers"]]})
    return (
        {name: value for name, value in fields.items() if name in FIELDS}
        | {field: mixer[name] for field, name in SIDES.items()}
        | _mamba_fields(first, model["dim"])
        | {
            "attention_bias": second["bias"],
            "mlp_bias": ffn["bias"],
            "embedding_multiplier": knob(model, "embedding", "factor", None) or 1.0,
            "lm_head_multiplier": model["output_factor"],
            "key_multiplier": _key_factor(second["scale"], fields["head_dim"]),
            "mlp_multipliers": [ffn[name] for name in GATES],
        }
    )


def _mamba_fields(mixer: Fields, dim: int) -> dict[str, Any]:
    width, norm = mixer["width"] or mixer["expand"] * dim, mixer["output_norm"]
    return {field: mixer[name] for field, name in SIZES.items()} | {
        "mamba_d_ssm": width,
        "mamba_n_heads": width // mixer["head_dim"],
        "mamba_d_head": mixer["head_dim"],
        "mamba_rms_norm": norm != "none",
        "mamba_norm_before_gate": norm == "before_gate",
        "projectors_bias": mixer["bias"],
        "ssm_multipliers": [mixer[name] for name in PROJECTIONS],
    }


def _key_factor(scale: float | None, size: int) -> float:
    """Return the factor of keys that gives a scale of scores exactly, or the nearest one."""
    if scale is None:
        return 1.0
    near = scale / size**-0.5
    candidates = (near, math.nextafter(near, math.inf), math.nextafter(near, 0.0))
    return next((factor for factor in candidates if factor * size**-0.5 == scale), near)


FORMAT = CheckpointFormat(
    architecture="FalconH1ForCausalLM",
    fields=FIELDS,
    fixed={"hidden_act": ("silu", "swish"), "mamba_use_mlp": (True,)},
    ignored=IGNORED,
    to_archlab_config=to_archlab_config,
    to_hf_config=to_hf_config,
    key_map=key_map,
    from_hf=mamba.from_hf,
    to_hf=mamba.to_hf,
)
