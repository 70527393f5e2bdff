"""From YAML to a checked Experiment; nothing here imports torch."""
