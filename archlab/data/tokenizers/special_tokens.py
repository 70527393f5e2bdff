"""The tokens that begin a text, end it, and pad it, as other libraries name them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from archlab.data.tokenizers.hugging_face import END_OF_TEXT
from archlab.data.tokenizers.model_tokens import ModelTokens
from archlab.data.tokenizers.tokenizer_file import CONFIG, TOKENIZER

_PAD = "<|pad|>"
_NUM_BYTES = 256


@dataclass(frozen=True)
class SpecialTokens:
    """Names and numbers of the tokens that begin a text, end it, and pad it; None for one that there is not.

    The padding's number may be the first after the vocabulary: the model never reads padding.
    """

    bos: str | None = None
    bos_id: int | None = None
    eos: str | None = None
    eos_id: int | None = None
    pad: str | None = None
    pad_id: int | None = None

    def ids(self) -> dict[str, int]:
        """Return the numbers by their names in config.json."""
        ids = {"bos_token_id": self.bos_id, "eos_token_id": self.eos_id, "pad_token_id": self.pad_id}
        return {name: number for name, number in ids.items() if number is not None}


def special_tokens(tokens: ModelTokens | None) -> SpecialTokens:
    """Return the special tokens of a model's vocabulary."""
    kind = None if tokens is None else tokens.kind
    if kind == "bytes":
        return SpecialTokens(pad=_PAD, pad_id=_NUM_BYTES)
    if tokens is not None and kind == "words":
        return SpecialTokens(pad=_PAD, pad_id=json.loads(tokens.files[tokens.file or ""])["vocab_size"])
    if tokens is not None and kind == "tokenizer":
        return _of_tokenizer(tokens)
    return SpecialTokens()


def _of_tokenizer(tokens: ModelTokens) -> SpecialTokens:
    config, ids = tokenizer_config(tokens), _ids(json.loads(tokens.files[TOKENIZER]))
    bos, eos, pad = (_name(config.get(f"{kind}_token")) for kind in ("bos", "eos", "pad"))
    before, after = (list(side) for side in (tokens.before, tokens.after))
    bos = bos or next(iter(before), None)
    eos = eos or next(iter(after), None) or next((name for name in END_OF_TEXT if name in ids), None)
    pad = pad or eos or _PAD
    return SpecialTokens(bos, ids.get(bos or ""), eos, ids.get(eos or ""), pad, ids.get(pad, 1 + max(ids.values())))


def _name(token: Any) -> str | None:
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None


def _ids(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return the number of each token of a tokenizer.json."""
    vocab = tokenizer["model"].get("vocab", {})
    own = dict(vocab) if isinstance(vocab, dict) else {entry[0]: number for number, entry in enumerate(vocab)}
    return own | {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or ()}


def tokenizer_config(tokens: ModelTokens) -> dict[str, Any]:
    """Return the tokenizer_config.json of a tokenizer, empty where it has none."""
    config: dict[str, Any] = json.loads(tokens.files.get(CONFIG, b"{}"))
    return config
