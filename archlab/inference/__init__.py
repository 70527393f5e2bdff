"""What runs a model without changing it: evaluation, generation, decoding."""
