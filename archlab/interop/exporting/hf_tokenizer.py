"""Tokenizer files by which transformers' AutoTokenizer reads text as the model does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from archlab.data.tokenizers import ModelTokens
from archlab.data.tokenizers.hugging_face import END_OF_TEXT
from archlab.data.tokenizers.tokenizer_file import CONFIG, TOKENIZER
from archlab.storage.model_tokens import token_files

_PAD = "<|pad|>"
_NUM_BYTES = 256
_ORIGINAL = "tokenizer_original.json"


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
    """Return the special tokens of what a model's tokens mean."""
    kind = None if tokens is None else tokens.kind
    if kind == "bytes":
        return SpecialTokens(pad=_PAD, pad_id=_NUM_BYTES)
    if tokens is not None and kind == "words":
        return SpecialTokens(pad=_PAD, pad_id=json.loads(tokens.files[tokens.file or ""])["vocab_size"])
    if tokens is not None and kind == "tokenizer":
        return _of_tokenizer(tokens)
    return SpecialTokens()


def _of_tokenizer(tokens: ModelTokens) -> SpecialTokens:
    config, ids = _config(tokens), _ids(json.loads(tokens.files[TOKENIZER]))
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


def _config(tokens: ModelTokens) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(tokens.files.get(CONFIG, b"{}"))
    return config


def hf_tokenizer_files(tokens: ModelTokens | None, special: SpecialTokens) -> dict[str, bytes]:
    """Return tokenizer.json and tokenizer_config.json by name; none where the tokens are no text's."""
    if tokens is None or tokens.kind not in ("bytes", "words", "tokenizer"):
        return {}
    named = {"bos_token": special.bos, "eos_token": special.eos, "pad_token": special.pad}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **({} if tokens.kind != "tokenizer" else _config(tokens)),
        **{name: token for name, token in named.items() if token is not None},
        "padding_side": "left",
    }
    if tokens.kind == "tokenizer":
        if (tokens.before or tokens.after) and not tokens.special_tokens:
            return _without_additions(tokens, config)
        return {CONFIG: _json(config)}
    made = _byte_tokenizer(special) if tokens.kind == "bytes" else _word_tokenizer(tokens, special)
    return {TOKENIZER: _json(made), CONFIG: _json(config)}


def _without_additions(tokens: ModelTokens, config: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a tokenizer that adds no special tokens to a text, as the model was trained without them.

    The original goes along under another name, because its checksum tells what the model's tokens mean.
    """
    additions = [name for name in ("add_bos_token", "add_eos_token") if name in config]
    plain = {**json.loads(tokens.files[TOKENIZER]), "post_processor": None}
    kept = replace(tokens, files={_ORIGINAL: tokens.files[TOKENIZER]})
    own = {TOKENIZER: _json(plain), CONFIG: _json({**config, **dict.fromkeys(additions, False)})}
    return {**token_files(kept), **own}


def _byte_tokenizer(special: SpecialTokens) -> dict[str, Any]:
    """Return a tokenizer.json whose tokens are bytes: byte-level BPE without a merge."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    vocab = {character: byte for byte, character in enumerate(_byte_characters())}
    return _tokenizer(special, level, level, {"type": "BPE", "vocab": vocab, "merges": []})


def _byte_characters() -> list[str]:
    """Return the character that byte-level BPE writes for each byte: its own if it is printed, or one from 256 on."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(_NUM_BYTES) if byte not in printed]
    return [chr(byte) if byte in printed else chr(_NUM_BYTES + others.index(byte)) for byte in range(_NUM_BYTES)]


def _word_tokenizer(tokens: ModelTokens, special: SpecialTokens) -> dict[str, Any]:
    """Return a tokenizer.json of the words between whitespace, and `<eos>` for the end of a line."""
    words = json.loads(tokens.files[tokens.file or ""])["words"]
    vocab = {word: number for number, word in enumerate(words)}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    ends = {"type": "Replace", "pattern": {"String": "\n"}, "content": " <eos> "}
    steps = [("<eos>", "\n"), (" \n ", "\n")]
    replaced = [{"type": "Replace", "pattern": {"String": old}, "content": new} for old, new in steps]
    decoder = {"type": "Sequence", "decoders": replaced}
    return _tokenizer(special, {"type": "WhitespaceSplit"}, decoder, model) | {"normalizer": ends}


def _tokenizer(special: SpecialTokens, split: Any, decoder: Any, model: Mapping[str, Any]) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": special.pad_id, "content": special.pad, **flags}] if special.pad else [],
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
