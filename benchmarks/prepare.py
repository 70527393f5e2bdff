"""Reading a text by a tokenizer: the first command, which makes the tokens, and the second; time and peak memory.

python benchmarks/prepare.py [MEGABYTES]

In memory is what every command did before tokens were kept: read the text whole and encode it.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from _measure import Row, require, show

VOCAB_SIZE = 32_000
TEXT, TOKENIZER = "text.jsonl", "tokenizer.json"


def main() -> None:
    """Write a text and a tokenizer, and read them in processes of their own."""
    require("tokenizers")
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 48
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_text(folder / TEXT, megabytes * 10**6)
        train_tokenizer(folder)
        time.sleep(3)  # a file that was just written is read again
        before, first, second = (read_in_process(how, folder) for how in ("memory", "mapped", "mapped"))
    rows = [
        Row("first command, over in memory", first[0], before[0], "ms"),
        Row("second command, over in memory", second[0], before[0], "ms", "at most 0.05"),
        Row("peak memory of the second, over in memory", second[1], before[1], "MB"),
    ]
    show(f"{megabytes} MB of JSON lines by a tokenizer of {VOCAB_SIZE:,} tokens: a process that reads a batch", rows)


def write_text(file: Path, size: int) -> None:
    """Write pieces of the standard library's sources as JSON lines."""
    sources = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))[:2000]
    texts = [source.read_text(errors="ignore").replace("\0", "") for source in sources]
    generator, written = random.Random(0), 0
    with file.open("w", encoding="utf-8") as out:
        while written < size:
            text = generator.choice(texts)
            start = generator.randrange(max(len(text) - 2000, 1))
            line = json.dumps({"text": text[start : start + generator.randrange(200, 2000)]}, ensure_ascii=False)
            written += out.write(f"{line}\n")


def train_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE on the beginning of the text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    with (folder / TEXT).open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(5000), strict=False)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / TOKENIZER))


def read_in_process(how: str, folder: Path) -> tuple[float, float]:
    """Return milliseconds and megabytes of a process that reads a batch."""
    environment = os.environ | {"ARCHLAB_TOKENS": str(folder / "tokens")}
    done = subprocess.run(
        [sys.executable, __file__, "--read", how, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    milliseconds, megabytes = json.loads(done.stdout)
    return milliseconds, megabytes


def read(how: str, folder: Path) -> None:
    """Read a batch, and print the time and the memory that it took more than its imports."""
    from archlab.components.task.text import Text
    from archlab.data.corpus import read_corpus
    from archlab.data.windows import sample_windows

    imported, begin = peak_megabytes(), time.perf_counter()
    task = Text(path=str(folder / TEXT), tokenizer=str(folder / TOKENIZER))
    if how == "memory":
        texts = read_corpus(task.source, task.eval_bytes, strict=True).texts
        tokens = {split: task.tokenizer.encode_corpus(text) for split, text in texts.items()}
        sample_windows(tokens["train"], 0, 8, 512, 0)
    else:
        task.check(512)
        task.batch("train", 0, 8, 512, 0)
    print(json.dumps([1000 * (time.perf_counter() - begin), peak_megabytes() - imported]))


def peak_megabytes() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--read"]:
        read(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
