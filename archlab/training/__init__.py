"""What changes a model: optimizer steps, the trainer, callbacks, metrics, profiles."""
