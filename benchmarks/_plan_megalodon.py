"""Megalodon-7B beside LLaMA2-7B on 256 A100s, as planned, and as their paper has it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from archlab.config.experiment import load
from archlab.planning.plan import Plan, plan

TOKENS = 4 * 2**20  # of an update
PAPER = {4096: 0.94, 32768: 1.32}  # arXiv:2404.08801, section 4.1: tokens per second over LLaMA2's
ATTENTION = "model.layers[0].mixer.attention.window_size"


def plans(context: int) -> tuple[Plan, Plan]:
    """Return the plans of Megalodon and of LLaMA2 at a context, 256 GPUs dividing 4 M tokens."""
    return _plan("megalodon_7b", context), _plan("llama2_7b", context, f"{ATTENTION}={context}")


def _plan(name: str, context: int, *overrides: str) -> Plan:
    # The paper's layout where there are 128 sequences: data 128 x chunk 2. At 4,096 there are four for each GPU.
    sequences = TOKENS // context
    chunk = 256 // min(256, sequences)
    shared = (f"train.context={context}", "train.batch_size=1", f"train.accumulate={sequences}")
    return plan(
        load(name, [*shared, *overrides, f"parallel.chunk={chunk}", "parallel.shard=8"]), device="a100-80g", devices=256
    )


def report_megalodon() -> None:
    """Print both models' planned tokens per second, and their ratio beside the paper's."""
    title = "256 A100 80 GB, 4 M tokens an update, planned"
    table = Table("context", "model", box=None, title=title, title_justify="left")
    for heading in ("GFLOP a token", "tokens/s", "MFU", "GB", "ratio", "paper"):
        table.add_column(heading, justify="right")
    for context in PAPER:
        for row in _rows(context):
            table.add_row(*row)
    Console(width=110).print(table)


def _rows(context: int) -> Iterator[tuple[str, ...]]:
    megalodon, llama = plans(context)
    ratio = f"{megalodon.tokens_per_s / llama.tokens_per_s:.2f}"
    for made, last in ((megalodon, (ratio, f"{PAPER[context]:.2f}")), (llama, ("", ""))):
        figures = (f"{made.flops_per_token / 1e9:.1f}", f"{made.tokens_per_s:,.0f}", f"{made.mfu:.0%}")
        yield f"{context:,}", made.name, *figures, f"{made.memory_per_device / 1e9:.0f}", *last
