"""Files of documents, and a tokenizer trained on them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

SPLITS = ("train", "validation", "test")
SENTENCES = [f"the {n} grüne Ente schwimmt {n * n} mal €" for n in range(300)]


def write_json_lines(file: Path, texts: Sequence[str] = SENTENCES, field: str = "text") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps({field: text, "id": n}, ensure_ascii=False) for n, text in enumerate(texts))
    file.write_text("".join(row + "\n" for row in rows))
    return file


def write_parquet(file: Path, texts: Sequence[str | None] = SENTENCES, field: str = "text") -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
    from pyarrow import parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({field: texts}), file)
    return file


def write_tokenizer(file: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizer files need tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.save(str(file))
    return file
