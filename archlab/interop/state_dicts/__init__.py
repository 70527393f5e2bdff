"""State dicts of other implementations, one implementation per file."""
