"""From files on disk to tensors: tokenizers, formats, corpora, splits, and the Task contract."""
