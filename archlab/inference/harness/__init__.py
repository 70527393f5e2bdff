"""EleutherAI's lm-eval on any model of archlab: its requests, its tasks, and what they find with intervals."""
