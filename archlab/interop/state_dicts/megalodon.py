"""The reference implementation of Megalodon: its configuration and its state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config.spec import parse
from archlab.errors import ArchlabError, did_you_mean
from archlab.interop._formats import StateDictFormat
from archlab.interop._tensors import load_tensors
from archlab.modeling.build import build

DEFAULTS: dict[str, Any] = {
    "num_layers": 8,
    "model_dim": 1024,
    "num_heads": 1,
    "z_dim": 256,
    "value_dim": 2048,
    "ffn_hidden_dim": 2048,
    "cema_ndim": 16,
    "chunk_size": 2048,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "vocab_size": -1,
    "output_size": -1,
    "rope_base": None,
    "init_mode": "he",
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "norm_affine": True,
    "efficient_attn": None,
    "swiglu": False,
    "rescale_nffn": False,
    "scale_emb": False,
    "share_emb": False,
    "layerwise_ckpt": False,
}
INITS = {"he": "he", "bert": "normal", "xavier": "xavier"}
BUFFERS = re.compile(r".*(rope\.freqs|prior_count|prior_mean|prior_logv)$")
PARTS = {
    "mega.timenorm": "norm",
    "mega.cema": "mixer.ema",
    "mega.rmsnorm": "mixer.norm",
    "mega.wv": "mixer.value",
    "mega.wz": "mixer.shared",
    "mega.wr": "mixer.reset",
    "mega.wh1": "mixer.hidden",
    "mega.wh2": "mixer.out",
    "mega": "mixer",
    "nffn.norm": "ffn_norm",
    "nffn.fc2": "ffn.down",
    "nffn.fc3": "ffn.up",
}
ENDS = {
    "embed.weight": "embedding.weight",
    "output.final_norm.weight": "norm.weight",
    "output.final_norm.bias": "norm.bias",
    "output.output.weight": "head.weight",
}


def load(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the model of the reference's configuration and tensors, in the tensors' dtype.

    An unset vocabulary size is taken from the embedding; the output matrix may be missing if it is tied.
    """
    weights = {name: tensor for name, tensor in tensors.items() if not BUFFERS.match(name)}
    if "embed.weight" not in weights:
        raise ArchlabError("tensor 'embed.weight' is missing")
    plain = to_archlab_config(config)
    if plain["vocab_size"] == DEFAULTS["vocab_size"]:
        plain["vocab_size"] = weights["embed.weight"].shape[0]
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in weights.values()))
    model = build(parse(plain, "backbone", "model")).to(dtype)
    parameters = {name: [parameter] for name, parameter in names(model).items()}
    tied = {"output.output.weight"} if "head.weight" not in dict(model.named_parameters()) else set()
    load_tensors(parameters, weights.items(), optional=tied, tied_by="share_emb")
    return model


def names(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the model's parameter for each of the reference's names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    ends = {theirs: parameters[ours] for theirs, ours in ENDS.items() if ours in parameters}
    if "output.output.weight" not in ends:
        ends["output.output.weight"] = parameters["embedding.weight"]
    return ends | {_reference_name(name, parameters): p for name, p in parameters.items() if name.startswith("blocks.")}


def _reference_name(name: str, parameters: Mapping[str, nn.Parameter]) -> str:
    _, layer, rest = name.split(".", 2)
    if rest == "residual.scale":
        return f"layers.{layer}.nffn.alpha"
    if rest.startswith(("ffn.gate.", "ffn.up.")):
        # The reference calls the first matrix fc1 in both FFNs: the gate of SwiGLU, and the only one up otherwise.
        gated = f"blocks.{layer}.ffn.gate.weight" in parameters
        return f"layers.{layer}.nffn.{'fc1' if 'gate' in rest or not gated else 'fc3'}.weight"
    # In PARTS "mixer" comes after "mixer.ema" and the others, so that the longest prefix is found first.
    theirs, ours = next(pair for pair in PARTS.items() if rest.startswith(f"{pair[1]}."))
    return f"layers.{layer}.{theirs}{rest.removeprefix(ours)}"


def to_archlab_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the YAML data of the model that a reference configuration describes."""
    for field in config:
        if field not in DEFAULTS:
            raise ArchlabError(f"unknown field {field!r} of a Megalodon configuration{did_you_mean(field, DEFAULTS)}")
    c = DEFAULTS | dict(config)
    if c["init_mode"] not in INITS:
        raise ArchlabError(f"init_mode {c['init_mode']!r} is not one of {', '.join(INITS)}")
    timestep = {"type": "timestep", "num_groups": c["norm_num_groups"], "eps": c["norm_eps"]}
    return {
        "type": "stack",
        "vocab_size": c["vocab_size"],
        "dim": c["model_dim"],
        "embedding": {"type": "tokens", "scale": c["scale_emb"], "dropout": c["dropout"]},
        "layers": [_layer(c, timestep)],
        "norm": timestep,
        "head": {
            "type": "language_model",
            "tied": c["share_emb"],
            "num_outputs": None if c["output_size"] == -1 else c["output_size"],
        },
    }


def _layer(c: Mapping[str, Any], timestep: dict[str, Any]) -> dict[str, Any]:
    ffn = {"type": "swiglu"} if c["swiglu"] else {"type": "mlp", "activation": "silu"}
    return {
        "type": "block",
        "repeat": c["num_layers"],
        "residual": {"type": "two_hop", "rescale": c["rescale_nffn"]},
        "norm": timestep,
        "mixer": _mixer(c),
        "ffn_norm": {"type": "layer", "eps": c["norm_eps"], "affine": c["norm_affine"]},
        "ffn": ffn | {"hidden_dim": c["ffn_hidden_dim"], "dropout": c["hidden_dropout"], "init": INITS[c["init_mode"]]},
        "dropout": c["dropout"],
    }


def _mixer(c: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "megalodon",
        "num_heads": c["num_heads"],
        "shared_dim": c["z_dim"],
        "value_dim": c["value_dim"],
        "ema": {"type": "cema", "num_dims": c["cema_ndim"]},
        "norm": {"type": "rms", "eps": c["norm_eps"], "affine": c["norm_affine"]},
        "attention": {
            "type": "softmax",
            "window": "chunk",
            "window_size": c["chunk_size"],
            "dropout": c["attention_dropout"],
        },
        "position": {"type": "rope", "base": 10000.0 if c["rope_base"] is None else c["rope_base"]},
        "eps": c["norm_eps"],
        "dropout": c["hidden_dropout"],
        "init": INITS[c["init_mode"]],
    }


FORMAT = StateDictFormat(load=load, names=names)
