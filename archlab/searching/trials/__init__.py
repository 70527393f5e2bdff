"""One trial: its training runs, its callbacks, its retries."""
