"""Time per token and resident memory while a tiny Megalodon generates text, and whether either grows with its length.

python benchmarks/decode_forever.py [TOKENS] [--eager]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from length import _megabytes  # imports _models, which configures this process before torch allocates
from rich.console import Console
from rich.table import Table

from archlab.config.experiment import load
from archlab.inference.prompts import Settings
from archlab.inference.text_model import TextModel
from archlab.modeling.build import build

TOKENS, WARM_UP, POINTS = 1_000_000, 2_000, 200
MILLION = 1e6


@dataclass(frozen=True)
class Slope:
    """A least-squares line through measurements: its mean, and how they change within a million tokens."""

    mean: float
    per_million: float
    error: float  # standard error of the slope

    @property
    def is_zero(self) -> bool:
        """Whether the slope is within two of its standard errors, or below a thousandth of the mean."""
        return abs(self.per_million) <= max(2 * self.error, 1e-3 * self.mean)


def fit(tokens: np.ndarray, values: np.ndarray) -> Slope:
    """Fit a line to measurements at numbers of tokens."""
    x = (tokens - tokens.mean()) / MILLION
    slope = float((x * values).sum() / (x * x).sum())
    rest = values - values.mean() - slope * x
    error = float(np.sqrt((rest * rest).sum() / max(len(x) - 2, 1) / (x * x).sum()))
    return Slope(float(values.mean()), slope, error)


def measure(num_tokens: int, compile: bool) -> Iterator[tuple[int, float, float]]:
    """Yield, POINTS times, how many tokens were generated, the microseconds of each since then, and megabytes."""
    experiment = load("megalodon_tiny", ["task={type: no_data, vocab_size: 256, tokenizer: bytes}"])
    model = TextModel(experiment, build(experiment.model).eval())
    # A stop text that never comes, so that what looks for it is measured too.
    settings = Settings(max_new_tokens=WARM_UP + num_tokens, stop=["\0never\0"])
    tokens = model.stream("once upon a time", settings, compile=compile)
    for _ in range(WARM_UP):
        next(tokens)
    done, each, begin = 0, max(num_tokens // POINTS, 1), time.perf_counter()
    # Bytes that are no UTF-8 are given out later: a few tokens more or less within an interval are no matter.
    for done, _ in enumerate(tokens, 1):
        if not done % each:
            now = time.perf_counter()
            yield done, 1e6 * (now - begin) / each, _megabytes()
            begin = time.perf_counter()


def main() -> None:
    """Generate as many tokens as the command line says, or until Ctrl-C, and print both slopes."""
    numbers = [argument for argument in sys.argv[1:] if argument != "--eager"]
    num_tokens, compile = int(numbers[0]) if numbers else TOKENS, "--eager" not in sys.argv
    console = Console(width=110)
    points: list[tuple[int, float, float]] = []
    with suppress(KeyboardInterrupt):
        for point in measure(num_tokens, compile):
            points.append(point)
            if len(points) % (POINTS // 10) == 0:
                console.print(f"{point[0]:>9,} tokens: {point[1]:7.1f} us a token, {point[2]:7.1f} MB")
    tokens, microseconds, megabytes = np.array(points).T
    how = "compiled" if compile else "eager"
    title = f"{points[-1][0]:,} tokens of megalodon_tiny, {how}, {torch.get_num_threads()} threads"
    table = Table("what", "mean", "within a million tokens", "", title=title, box=None, title_justify="left")
    for what, values in (("us a token", microseconds), ("resident MB", megabytes)):
        line = fit(tokens, values)
        grows = "no trend" if line.is_zero else "a trend"
        table.add_row(what, f"{line.mean:,.1f}", f"{line.per_million:+.2f} ± {line.error:.2f}", grows)
    console.print(table)


if __name__ == "__main__":
    main()
