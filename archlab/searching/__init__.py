"""Search over architectures: spaces, studies, trials, and the best of them."""
