"""Which trial is next, and with which values."""
