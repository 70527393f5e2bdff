"""What a search has found and used: the baseline, choices, the best trial, the summary."""
