"""One checkpoint format of the transformers library per file, named as config.json's `model_type`."""
