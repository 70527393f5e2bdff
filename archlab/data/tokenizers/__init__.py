"""Tokenizers: bytes, the most frequent words of a corpus, or a tokenizer.json."""

from archlab.data.tokenizers.base import SEPARATOR, Decoder, Lost, MissingTokenizerError, Tokenizer
from archlab.data.tokenizers.byte import ByteTokenizer
from archlab.data.tokenizers.hugging_face import HuggingFaceTokenizer
from archlab.data.tokenizers.incremental import IncrementalDecoder
from archlab.data.tokenizers.load import load_tokenizer, vocab_size_problem
from archlab.data.tokenizers.model_tokens import UNKNOWN_TOKENS, ModelTokens
from archlab.data.tokenizers.word import VOCABULARY, WordTokenizer, load_words, split_words

__all__ = [
    "SEPARATOR",
    "UNKNOWN_TOKENS",
    "VOCABULARY",
    "ByteTokenizer",
    "Decoder",
    "HuggingFaceTokenizer",
    "IncrementalDecoder",
    "Lost",
    "MissingTokenizerError",
    "ModelTokens",
    "Tokenizer",
    "WordTokenizer",
    "load_tokenizer",
    "load_words",
    "split_words",
    "vocab_size_problem",
]
