"""Results and used resources of a search: the baseline, choices, the best trial, the summary."""
