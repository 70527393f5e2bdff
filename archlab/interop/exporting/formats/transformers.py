"""Code and files by which transformers' Auto classes load the model, with `generate`, pipelines and Trainer."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from archlab.data.tokenizers.special_tokens import SpecialTokens, special_tokens
from archlab.errors import ArchlabError
from archlab.interop.exporting.exported_model import ExportedModel
from archlab.interop.exporting.hf_tokenizer import hf_tokenizer_files
from archlab.interop.exporting.import_export import CODE, EXPERIMENT, MODEL_TYPE, TOKENS
from archlab.interop.exporting.import_export import FORMAT as OWN_FORMAT
from archlab.modeling.backbone import is_causal, is_per_sample
from archlab.modeling.state import max_context
from archlab.storage.files import sha256_of, write_bytes, write_text

_LOADER = """
NEEDS = ("torch", "safetensors", "transformers")

def open(folder):
    import torch
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()

def load(folder):
    model = open(folder)
    def call(tokens, state):
        output = model(tokens, past_key_values=state, use_cache=True)
        return output.logits, output.past_key_values
    return call

def padded(folder):
    model = open(folder)
    return lambda tokens, mask: model(tokens, attention_mask=mask).logits
"""


class Transformers:
    """config.json with an auto_map, auto_NAME.py, generation_config.json, and tokenizer files."""

    needs = ("standalone",)
    is_alone = False

    def check(self, model: ExportedModel) -> None:
        """Raise ArchlabError for a model that is not a language model."""
        built = model.on_meta()
        problem = ""
        if not model.reads_tokens:
            problem = f"model.embedding {model.experiment.model.knobs['embedding'].name!r} reads no tokens"
        elif is_per_sample(built):
            problem = "model.head gives one answer per sample"
        elif not is_causal(built):
            problem = "the model sees later tokens"
        if problem:
            raise ArchlabError(
                f"transformers: {problem}, where AutoModelForCausalLM has tokens in and logits of each out"
            )

    def write(self, model: ExportedModel, folder: Path) -> None:
        """Write the files."""
        special = special_tokens(model.tokens)
        write_text(folder / f"{_auto_module(model)}.py", render_auto(model))
        write_text(folder / "config.json", _json(_config(model, special) | _origin(model, folder)))
        write_text(folder / "generation_config.json", _json(special.ids()))
        for name, data in hf_tokenizer_files(model.tokens, special).items():
            write_bytes(folder / name, data)

    def loader(self, model: ExportedModel) -> str:
        """Return the source that loads it by its directory."""
        return _LOADER

    def advice(self, model: ExportedModel, folder: Path) -> str:
        """Return the call that loads it."""
        return f'AutoModelForCausalLM.from_pretrained("{folder}", trust_remote_code=True)'


def render_auto(model: ExportedModel) -> str:
    """Return the source of the module that transformers loads."""
    source = files("archlab.interop.exporting").joinpath("auto_template.py").read_text(encoding="utf-8")
    title = model.experiment.name.replace("\\", "/").replace('"', "'")
    return (
        source.removeprefix("# mypy: ignore-errors\n")
        .replace('"""NAME', f'"""{title}')
        .replace("MODELING", model.module)
    )


def _auto_module(model: ExportedModel) -> str:
    return f"auto_{model.module.removeprefix('modeling_')}"


def _config(model: ExportedModel, special: SpecialTokens) -> dict[str, Any]:
    built, module = model.on_meta(), _auto_module(model)
    num_layers = len(getattr(built, "blocks", ()))
    dtype = next((x.dtype for x in model.tensors.values() if x.is_floating_point()), None)
    limit = max_context(built)
    return {
        "architectures": ["ArchlabForCausalLM"],
        "model_type": MODEL_TYPE,
        "archlab_format": OWN_FORMAT,
        "auto_map": {
            "AutoConfig": f"{module}.ArchlabConfig",
            "AutoModelForCausalLM": f"{module}.ArchlabForCausalLM",
            # `transformers serve` (5.23) asks this class first, and after it only classes of the library's own.
            "AutoModelForDecision": f"{module}.ArchlabForCausalLM",
        },
        "vocab_size": model.vocab_size,
        "hidden_size": model.experiment.model.knobs["dim"],
        "num_hidden_layers": num_layers,
        **({"max_position_embeddings": limit} if limit is not None else {}),
        "dtype": str(dtype).removeprefix("torch."),
        "use_cache": True,
        **_padding(special, model.vocab_size or 0),
    }


def _origin(model: ExportedModel, folder: Path) -> dict[str, Any]:
    """Return the fields by which `archlab import` reads the model again, whatever saves it next to its code."""
    code = (folder / f"{name}.py" for name in (model.module, _auto_module(model)))
    tokens = None if model.tokens is None else model.tokens.to_plain()
    return {
        EXPERIMENT: model.experiment.to_yaml(),
        TOKENS: tokens,
        CODE: {file.name: sha256_of(file) for file in code},
    }


def _padding(special: SpecialTokens, vocab_size: int) -> dict[str, Any]:
    """Return the special tokens of config.json, where transformers rejects padding beyond the vocabulary."""
    ids = special.ids()
    if ids.get("pad_token_id", 0) < vocab_size:
        return ids
    return {"padding_id": ids.pop("pad_token_id"), **ids}


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"


FORMAT = Transformers
