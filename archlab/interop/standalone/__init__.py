"""A trained model as a directory that runs without archlab."""
