"""Checkpoint directories of the transformers library, read and written."""
