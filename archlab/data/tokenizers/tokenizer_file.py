"""A tokenizer.json, with its neighbor tokenizer_config.json, as transformers saves them: read once, settings off."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from archlab.data.tokenizers.base import MissingTokenizerError
from archlab.errors import ArchlabError, one_line

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
# Settings of a model that draw another encoding of the same text at each call.
_RANDOM = ("dropout", "alpha", "nbest_size")
_NUM_PROBES = 20


@dataclass(frozen=True)
class TokenizerFile:
    """The library's tokenizer, the SHA-256 of its file, the special tokens around a text, and the files' contents."""

    tokenizer: Any
    sha256: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    contents: Mapping[str, bytes] = field(repr=False)


def open_tokenizer_file(path: str) -> TokenizerFile:
    """Read a tokenizer.json; raise ArchlabError naming one that is missing or damaged."""
    file, _ = Path(path).expanduser(), _library(path)
    if not file.is_file():
        raise MissingTokenizerError(f"{path}: no such tokenizer file (tokenizer.json)")
    return _read(path, file, (_stamp(file), _stamp(file.with_name(CONFIG))))


def _library(path: str) -> Any:
    try:
        return import_module("tokenizers")
    except ImportError as error:
        raise ArchlabError(f"{path}: needs the tokenizers library: pip install tokenizers") from error


def _stamp(file: Path) -> tuple[int, int] | None:
    return (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None


@lru_cache(maxsize=8)
def _read(path: str, file: Path, stamps: tuple[tuple[int, int] | None, ...]) -> TokenizerFile:
    """Read the files; `stamps` are those of the moment, so that a file that has changed is read again."""
    data, config = _read_bytes(file), file.with_name(CONFIG)
    contents = {TOKENIZER: data} | ({CONFIG: _read_bytes(config)} if config.is_file() else {})
    tokenizer = _parse(path, data)
    before, after = _special_tokens(path, tokenizer, _parse_config(config, contents.get(CONFIG)))
    return TokenizerFile(tokenizer, hashlib.sha256(data).hexdigest(), before, after, contents)


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ArchlabError(f"{file}: cannot be read: {error.strerror}") from error


def _parse(path: str, data: bytes) -> Any:
    with refuse(f"{path}: is not a tokenizer.json"):
        tokenizer = _library(path).Tokenizer.from_buffer(data)
        _turn_off(tokenizer)
        return tokenizer


@contextmanager
def refuse(problem: str) -> Iterator[None]:
    """Raise an ArchlabError that begins with `problem` for any error of the tokenizers library."""
    try:
        yield
    except (ArchlabError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exceptions, and a panic of its Rust is not even one
        raise ArchlabError(f"{problem}: {one_line(error)}") from error


def _turn_off(tokenizer: Any) -> None:
    """Turn off saved settings of a tokenizer's last use, such as padding and truncation."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for setting in _RANDOM:
        if getattr(tokenizer.model, setting, None) is not None:
            setattr(tokenizer.model, setting, None)


def _parse_config(file: Path, data: bytes | None) -> Mapping[str, Any]:
    if data is None:
        return {}
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchlabError(f"{file}: cannot be read: {one_line(error)}") from error
    if not isinstance(config, dict):
        raise ArchlabError(f"{file}: is no JSON object")
    return config


def _special_tokens(path: str, tokenizer: Any, config: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the special tokens before and after a text, as transformers adds them."""
    # add_bos_token or add_eos_token replace what tokenizer.json says altogether: transformers then rewrites it.
    if "add_bos_token" in config or "add_eos_token" in config:
        return _configured_token(config, "bos"), _configured_token(config, "eos")
    with refuse(f"{path}: its post_processor cannot be used"):
        return _added_tokens(tokenizer)


def _configured_token(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    token = config.get(f"{name}_token")
    token = token.get("content") if isinstance(token, dict) else token
    return (token,) if config.get(f"add_{name}_token") is True and isinstance(token, str) else ()


def _added_tokens(tokenizer: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tokens that the post-processor adds around a text, found on a text that has tokens."""
    for encoding in _probes(tokenizer):
        mask = encoding.special_tokens_mask
        if 0 in mask:
            first, last = mask.index(0), len(mask) - mask[::-1].index(0)
            return tuple(encoding.tokens[:first]), tuple(encoding.tokens[last:])
    return (), ()


def _probes(tokenizer: Any) -> Iterator[Any]:
    """Yield encodings with the post-processor's tokens, of several texts: a vocabulary may have no letters."""
    words = islice(tokenizer.get_vocab(with_added_tokens=False), _NUM_PROBES)
    for text in () if tokenizer.post_processor is None else ("a", *words):
        try:
            yield tokenizer.encode(text, add_special_tokens=True)
        except Exception:  # a bare one of the library, for a text without tokens
            continue
