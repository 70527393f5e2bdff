"""Inference: evaluation, generation, decoding."""
