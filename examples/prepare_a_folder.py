"""From any folder of text to a trained model: a tokenizer of its own, tokens that are made once, and training.

python examples/prepare_a_folder.py [FOLDER [OUT]]
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import archlab
from archlab.data.text_sources import TextFiles

VOCAB_SIZE = 2048


def iter_texts(folder: Path, glob: str) -> Iterator[str]:
    """Yield the documents of a folder, up to about 2 MB: enough for a small vocabulary."""
    left = 2_000_000
    for _, text in TextFiles(str(folder), glob, "text").documents():  # plain text, JSON or tables, compressed or not
        left -= len(text)
        yield text.decode()
        if left < 0:
            return


def train_tokenizer(folder: Path, glob: str, file: Path) -> None:
    """Train a byte-level BPE, which can write any text, and has a token for the end of a document."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(iter_texts(folder, glob), trainer)
    tokenizer.save(str(file))


def main(folder: Path, out: Path, glob: str) -> None:
    """Prepare a folder, and train on it."""
    out.mkdir(parents=True, exist_ok=True)
    train_tokenizer(folder, glob, out / "tokenizer.json")
    # As `archlab prepare --corpus FOLDER --tokenizer FILE --out DIRECTORY` does; if it is killed, run it again.
    corpus = archlab.prepare_corpus(folder, out / "corpus", tokenizer=out / "tokenizer.json", glob=glob)
    print(f"{corpus.length('train'):,} tokens of {corpus.documents:,} documents in {corpus.folder}")

    task = f"task={{type: prepared, corpus: '{corpus.folder}', vocab_size: {VOCAB_SIZE}}}"
    small = ["train.steps=6", "train.context=64", "train.eval_tokens=512", "train.compile=off"]
    run = archlab.train("quickstart", [task, f"model.vocab_size={VOCAB_SIZE}", *small], out=out / "run")
    print(f"{run.metrics['val_bpb']:.3f} bits per byte after {run.metrics['step']:.0f} steps")


if __name__ == "__main__":
    named = sys.argv[1:]
    source, pattern = (named[0], "**/*") if named else (sysconfig.get_path("stdlib") + "/email", "**/*.py")
    main(Path(source), Path(named[1] if len(named) > 1 else "runs/prepare_a_folder"), pattern)
