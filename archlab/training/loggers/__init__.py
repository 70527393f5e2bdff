"""Loggers of training runs, one module each, found by name: each has its class as `LOGGER`."""
