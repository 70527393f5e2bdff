"""The cost of length: training steps of Megalodon at 65,536 tokens and at 1,024, LLaMA of equal size, and streaming.

python benchmarks/length.py [cost llama stream]
"""

from __future__ import annotations

import os
import sys

import torch
from _measure import Row, best_seconds, in_own_process, show
from _models import LLAMA, MEGALODON, VOCAB_SIZE, ours, tokens, training_step
from torch import nn

from archlab.modeling.build import count_parameters

ROUNDS, CHUNK = 2, 4096
# An FFN wide enough for as many parameters as Megalodon has.
EQUAL_SIZE = (*LLAMA, "model.layers[0].ffn.hidden_dim=847")


def megalodon() -> nn.Module:
    """Return the Megalodon of every benchmark, compiled."""
    return ours("megalodon_tiny", MEGALODON)


def transformer(context: int) -> nn.Module:
    """Return a LLaMA of the same size, whose attention sees the whole context."""
    return ours("llama2_tiny", (*EQUAL_SIZE, f"model.layers[0].mixer.attention.window_size={context}"))


def speed(context: int, batch_size: int, full_attention: bool = False) -> float:
    """Return the tokens per second of a training step."""
    model = transformer(context) if full_attention else megalodon()
    (seconds,) = best_seconds(training_step(model, tokens(context, batch_size)), rounds=ROUNDS)
    return context * batch_size / seconds


def cost() -> list[Row]:
    """Compare the training cost per token in a long context with that in a short one: below 1 is cheaper."""
    short, long = (1e6 / in_own_process(speed, *size) for size in ((1024, 4), (65_536, 1)))
    return [Row("cost per token, 65,536 over 1,024", long, short, "us", "at most 1.15")]


def llama() -> list[Row]:
    """Compare the speeds of Megalodon and of LLaMA with full attention."""
    rows = []
    for context, target in ((4096, "1.3"), (32_768, "4")):
        print(f"{count_parameters(megalodon()):,} and {count_parameters(transformer(context)):,} parameters")
        speeds = (in_own_process(speed, context, 1, full) for full in (False, True))
        rows.append(Row(f"Megalodon over LLaMA, {context} x 1", *speeds, "tokens/s", target))
    return rows


def stream() -> list[Row]:
    """Stream 2 M tokens chunk by chunk; compare the process's memory at the end with that after 64 K."""
    megabytes = in_own_process(memory_of_stream, 2**21)
    return [Row("memory, 2 M tokens over 64 K", megabytes[-1], megabytes[65_536 // CHUNK - 1], "MB", "at most 1.05")]


@torch.inference_mode()
def memory_of_stream(num_tokens: int) -> list[float]:
    """Return the process's memory in MB after each chunk of a stream."""
    model, state, megabytes = megalodon().eval(), None, []
    token_ids = torch.randint(VOCAB_SIZE, (1, CHUNK))
    for _ in range(num_tokens // CHUNK):
        _, state = model(token_ids, state)
        megabytes.append(_megabytes())
    return megabytes


def _megabytes() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Run the comparisons that the command line names, or all."""
    comparisons = {"cost": cost, "llama": llama, "stream": stream}
    rows = [row for name in sys.argv[1:] or comparisons for row in comparisons[name]()]
    show("Cost of length, 4 layers of 256, float32", rows)


if __name__ == "__main__":
    main()
