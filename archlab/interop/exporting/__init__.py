"""A trained model as a directory that works without archlab, in one format or several."""
