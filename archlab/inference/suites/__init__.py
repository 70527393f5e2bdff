"""Suites of measurements of a trained model, one module each, found by name: each has its function as `SUITE`."""
