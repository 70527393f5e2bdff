"""Training: optimizer steps, the trainer, callbacks, metrics, profiles."""
