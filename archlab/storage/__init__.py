"""Persistence: atomic writes, locks, manifests, checkpoints and trained models."""
