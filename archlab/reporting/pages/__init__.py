"""The pages of a search, a ladder and a run."""
