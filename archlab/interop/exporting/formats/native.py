"""A model as the type that transformers has for it, so that whatever reads that type takes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from archlab.data.tokenizers.special_tokens import special_tokens
from archlab.interop.exporting.exported_model import ExportedModel
from archlab.interop.exporting.hf_tokenizer import hf_tokenizer_files
from archlab.interop.exporting.weights import write_weights
from archlab.interop.hugging_face.match import match_model_type
from archlab.interop.hugging_face.pretrained import write_pretrained
from archlab.storage.files import write_bytes, write_text

# Token by token without the library's cache: each of its types has another, and the function is in the weights.
_LOADER = """
NEEDS = ("torch", "safetensors", "transformers")
TOLERANCE = 1e-4

def load(folder):
    import torch
    import transformers
    config = transformers.AutoConfig.from_pretrained(folder)
    architecture = getattr(transformers, config.architectures[0])
    model = architecture.from_pretrained(folder, dtype=torch.float32).eval()
    def call(inputs, earlier):
        if inputs.is_floating_point():
            return model(inputs).logits, None
        tokens = inputs if earlier is None else torch.cat((earlier, inputs), 1)
        return model(tokens, use_cache=False).logits[:, -inputs.shape[1]:], tokens
    return call
"""


class Native:
    """config.json with a model_type of transformers, tensors under its names, and tokenizer files."""

    needs: tuple[str, ...] = ()
    is_alone = True

    def check(self, model: ExportedModel) -> None:
        """Raise ArchlabError, with why it is none of them, for a model that is no model_type of transformers."""
        match_model_type(model.experiment.model)

    def write(self, model: ExportedModel, folder: Path) -> None:
        """Write the files."""
        write_pretrained(model.load(), match_model_type(model.experiment.model), folder, write_weights)
        special = special_tokens(model.tokens)
        if special.pad_id is not None and special.pad_id >= (model.vocab_size or 0):
            special = replace(special, pad=None, pad_id=None)  # these types embed padding, and so need it in there
        if model.reads_tokens:
            write_text(folder / "generation_config.json", json.dumps(special.ids(), indent=2) + "\n")
        for name, data in hf_tokenizer_files(model.tokens, special).items():
            write_bytes(folder / name, data)

    def loader(self, model: ExportedModel) -> str:
        """Return the source that loads it as its type."""
        return _LOADER

    def advice(self, model: ExportedModel, folder: Path) -> str:
        """Return the call that loads it."""
        auto = "AutoModelForCausalLM" if model.reads_tokens else "AutoModelForImageClassification"
        return f'{auto}.from_pretrained("{folder}")  # a {match_model_type(model.experiment.model).model_type}'


FORMAT = Native
