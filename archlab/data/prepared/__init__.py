"""Corpora whose tokens were made once, and are mapped into memory when they are read."""

from archlab.data.prepared.cache import VARIABLE, open_prepared, prepare_at, tokens_dir
from archlab.data.prepared.corpus import PreparedCorpus, open_corpus
from archlab.data.prepared.vocabulary import word_tokenizer

__all__ = ["VARIABLE", "PreparedCorpus", "open_corpus", "open_prepared", "prepare_at", "tokens_dir", "word_tokenizer"]
