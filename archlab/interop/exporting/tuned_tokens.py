"""What the tokens of a tuned export mean, by the tokenizer.json that transformers has saved beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from archlab.config.strict_json import read_object
from archlab.data.tokenizers import ModelTokens, load_tokenizer
from archlab.data.tokenizers.tokenizer_file import TOKENIZER
from archlab.data.tokenizers.word import WordTokenizer
from archlab.errors import ArchlabError
from archlab.storage.model_tokens import read_tokens


def read_tuned_tokens(directory: Path, plain: dict[str, Any] | None, vocab_size: int | None) -> ModelTokens | None:
    """Return what a model's tokens mean, of which config.json holds `plain`; None where it reads real values.

    A tokenizer.json that was saved again is the one that the model was tuned with. Raises ArchlabError for one that is
    missing, or whose words are not those of the model.
    """
    kept = read_tokens(directory)  # of an export that was not tuned
    if kept is not None or plain is None:
        return kept
    kind = str(plain.get("kind"))
    if kind == "words":
        return _words(directory, str(plain.get("sha256")), vocab_size or 0)
    if kind != "tokenizer":
        return ModelTokens(kind)
    if not (directory / TOKENIZER).is_file():
        raise ArchlabError(f"{directory}: holds no {TOKENIZER}; save the tokenizer beside the model")
    return load_tokenizer(str(directory / TOKENIZER), plain.get("special_tokens") is True).model_tokens()


def _words(directory: Path, sha256: str, vocab_size: int) -> ModelTokens:
    file = directory / TOKENIZER
    vocab = read_object(file).get("model", {}).get("vocab") if file.is_file() else None
    if not isinstance(vocab, dict):
        raise ArchlabError(f"{file}: holds no words; save the tokenizer beside the model")
    tokens = WordTokenizer.from_words(sorted(vocab, key=lambda word: int(vocab[word])), vocab_size).model_tokens()
    if tokens.sha256 != sha256:
        raise ArchlabError(f"{file}: its words are not those that the model was trained with")
    return tokens
