"""Experiments: YAML files, their schema and validation, without torch, so that a typo is reported at once."""
