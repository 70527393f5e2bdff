"""Corpora whose tokens were made once, and are mapped into memory when they are read."""

from archlab.data.prepared.cache import open_prepared, prepare_at, tokens_dir
from archlab.data.prepared.corpora_dir import MissingCorpusError, corpus_place, find_corpus
from archlab.data.prepared.corpus import PreparedCorpus, open_corpus
from archlab.data.prepared.text import prepare_text
from archlab.data.prepared.vocabulary import word_tokenizer

__all__ = [
    "MissingCorpusError",
    "PreparedCorpus",
    "corpus_place",
    "find_corpus",
    "open_corpus",
    "open_prepared",
    "prepare_at",
    "prepare_text",
    "tokens_dir",
    "word_tokenizer",
]
