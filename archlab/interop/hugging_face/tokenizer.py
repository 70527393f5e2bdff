"""The tokenizer beside a checkpoint of transformers."""

from __future__ import annotations

import logging
from pathlib import Path

from archlab.data.tokenizers import UNKNOWN_TOKENS, ModelTokens, load_tokenizer
from archlab.errors import ArchlabError

_log = logging.getLogger(__name__)
TOKENIZER = "tokenizer.json"
# What older tokenizers of transformers consist of, which its AutoTokenizer converts to a tokenizer.json.
_OLDER = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt", "tekken.json")


def find_tokens(directory: Path, tokenizer: str | None = None, special_tokens: bool = True) -> ModelTokens:
    """Return what the tokens of a checkpoint mean: by `tokenizer`, or by the directory's tokenizer.json.

    Without either they are unknown, which a warning says along with the remedy. Raises ArchlabError for a tokenizer
    that is damaged.
    """
    own = directory / TOKENIZER
    if tokenizer is None and not own.is_file():
        _warn(directory)
        return UNKNOWN_TOKENS
    if tokenizer is not None and tokenizer != "bytes" and not Path(tokenizer).expanduser().is_file():
        raise ArchlabError(f"--tokenizer {tokenizer}: no such file; give 'bytes' or the path of a tokenizer.json")
    return load_tokenizer(str(own) if tokenizer is None else tokenizer, special_tokens).model_tokens()


def _warn(directory: Path) -> None:
    older = [name for name in _OLDER if (directory / name).is_file()]
    convert = f"AutoTokenizer.from_pretrained('{directory}').save_pretrained('{directory}')"
    found = f"only {older[0]}, which transformers converts: {convert}" if older else "no tokenizer.json"
    _log.warning(
        "%s: holds %s; the model is imported for tokens by number, not for text, unless --tokenizer FILE names one",
        directory,
        found,
    )
