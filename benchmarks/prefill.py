"""Reading a prompt: chunk by chunk against a forward pass of training, and the peak memory of prompts of two lengths.

python benchmarks/prefill.py [speed memory]
"""

from __future__ import annotations

import sys

import torch
from _measure import Row, best_seconds, in_own_process, show
from _models import VOCAB_SIZE
from torch import nn

from archlab.config.experiment import load
from archlab.inference.token_stream import CHUNK, TokenStream
from archlab.modeling.build import build
from archlab.runtime.memory import most_used_memory

PROMPT, SHORT, ROUNDS = 65_536, 8192, 3


def tiny() -> nn.Module:
    """Return the tiny Megalodon, not compiled, as `archlab generate` has it."""
    return build(load("megalodon_tiny").model)


def prompt(num_tokens: int) -> list[int]:
    """Return random tokens."""
    return torch.randint(VOCAB_SIZE, (num_tokens,), generator=torch.Generator().manual_seed(0)).tolist()


def speed() -> list[Row]:
    """Compare tokens read per second in chunks with those of the forward pass that training does, eager too."""
    model, rows = tiny(), []
    for size in (SHORT, PROMPT):
        tokens = prompt(size)
        tokens_1T = torch.tensor([tokens])
        chunked, whole = best_seconds(
            lambda tokens=tokens: TokenStream(model.eval()).read(tokens),
            lambda tokens_1T=tokens_1T: model.train()(tokens_1T),
            rounds=ROUNDS,
        )
        rows.append(Row(f"{size:,} tokens in chunks of {CHUNK:,}", size / chunked, size / whole, "tokens/s", "1"))
    return rows


def memory() -> list[Row]:
    """Compare the peak memory of a long prompt with that of a short one, each in a process of its own."""
    long, short = (in_own_process(peak_of_prompt, size) for size in (PROMPT, SHORT))
    return [Row(f"peak memory, {PROMPT:,} tokens over {SHORT:,}", long, short, "MB", "at most 1.05")]


def peak_of_prompt(num_tokens: int) -> float:
    """Return the peak memory of this process in MB after it has read a prompt."""
    TokenStream(tiny().eval()).read(prompt(num_tokens))
    return most_used_memory(torch.device("cpu")) / 1e6


def main() -> None:
    """Run the comparisons that the command line names, or all."""
    comparisons = {"speed": speed, "memory": memory}
    rows = [row for name in sys.argv[1:] or comparisons for row in comparisons[name]()]
    show(f"Reading a prompt, megalodon_tiny, float32, {torch.get_num_threads()} threads", rows)


if __name__ == "__main__":
    main()
