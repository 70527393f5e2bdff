"""What training will cost and bring, before it is done: losses forecast from those of smaller models."""
