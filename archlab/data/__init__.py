"""Tokenizers, file formats, corpora, images, audio and splits, read from disk into tensors, and the Task contract."""
