"""What training will cost and bring, before it is done: plans of runs, and losses forecast from smaller models."""
