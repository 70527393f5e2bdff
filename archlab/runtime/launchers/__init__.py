"""Launchers, one module each, found by name: each has its class as `LAUNCHER`."""
