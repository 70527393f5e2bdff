"""EleutherAI's lm-eval on any model of archlab: its requests, its tasks, and their results with intervals."""
