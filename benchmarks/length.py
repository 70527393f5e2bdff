"""What length costs: an update of Megalodon at 65,536 tokens and at 1,024, beside LLaMA of like size, and a stream.

python benchmarks/length.py [cost llama stream]
"""

from __future__ import annotations

import os
import sys

import torch
from _measure import Row, best_seconds, show
from _models import LLAMA, MEGALODON, WORDS, ours, tokens, update
from torch import nn

from archlab.modeling.build import count_parameters

ROUNDS, PIECE = 2, 4096
EQUAL = (*LLAMA, "model.layers[0].ffn.hidden_dim=847")


def megalodon() -> nn.Module:
    """Return the Megalodon of every benchmark, compiled."""
    return ours("megalodon_tiny", MEGALODON)


def speed(model: nn.Module, context: int, batch_size: int) -> float:
    """Return the tokens per second of an update."""
    (seconds,) = best_seconds(update(model, tokens(context, batch_size)), rounds=ROUNDS)
    return context * batch_size / seconds


def cost() -> list[Row]:
    """Compare a token's cost in a long context with that in a short one: below 1 is cheaper."""
    short, long = 1e6 / speed(megalodon(), 1024, 4), 1e6 / speed(megalodon(), 65_536, 1)
    return [Row("a token in 65,536 over one in 1,024", long, short, "us", "at most 1.15")]


def llama() -> list[Row]:
    """Compare the speeds of Megalodon and of LLaMA with full attention."""
    rows = []
    for context, wanted in ((4096, "1.3"), (32_768, "4")):
        full = ours("llama2_tiny", (*EQUAL, f"model.layers[0].mixer.attention.window_size={context}"))
        model = megalodon()
        print(f"{count_parameters(model):,} and {count_parameters(full):,} parameters")
        speeds = speed(model, context, 1), speed(full, context, 1)
        rows.append(Row(f"Megalodon over LLaMA, {context} x 1", *speeds, "tokens/s", wanted))
    return rows


@torch.inference_mode()
def stream() -> list[Row]:
    """Read 2 M tokens piece by piece; compare the process's memory at the end with that after 64 K."""
    model, state, held = megalodon().eval(), None, []
    words = torch.randint(WORDS, (1, PIECE))
    for _ in range(2**21 // PIECE):
        _, state = model(words, state)
        held.append(_megabytes())
    return [
        Row("memory after 2 M tokens over that after 64 K", held[-1], held[65_536 // PIECE - 1], "MB", "at most 1.05")
    ]


def _megabytes() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Measure what was asked for, or all."""
    comparisons = {"cost": cost, "llama": llama, "stream": stream}
    rows = [row for name in sys.argv[1:] or comparisons for row in comparisons[name]()]
    show("What length costs, 4 layers of 256, float32", rows)


if __name__ == "__main__":
    main()
