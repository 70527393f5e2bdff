"""Tokenizer files by which transformers' AutoTokenizer reads text as the model does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from archlab.data.tokenizers import ModelTokens
from archlab.data.tokenizers.special_tokens import SpecialTokens, tokenizer_config
from archlab.data.tokenizers.tokenizer_file import CONFIG, TOKENIZER
from archlab.storage.model_tokens import token_files

_NUM_BYTES = 256
_ORIGINAL = "tokenizer_original.json"


def hf_tokenizer_files(tokens: ModelTokens | None, special: SpecialTokens) -> dict[str, bytes]:
    """Return tokenizer.json and tokenizer_config.json by name; none where the tokens are no text's."""
    if tokens is None or tokens.kind not in ("bytes", "words", "tokenizer"):
        return {}
    named = {"bos_token": special.bos, "eos_token": special.eos, "pad_token": special.pad}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **({} if tokens.kind != "tokenizer" else tokenizer_config(tokens)),
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

    The original goes along under another name, because its checksum identifies the meaning of the model's tokens.
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
