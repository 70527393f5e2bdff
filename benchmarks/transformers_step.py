"""One update of LLaMA, Mamba and RWKV-4 against the same models of transformers, the better of eager and compiled.

python benchmarks/transformers_step.py [llama mamba rwkv ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from _measure import Row, best_seconds, require, show
from _models import DIM, LAYERS, LLAMA, LLAMA_HEADS, LLAMA_HIDDEN, SMALL, WORDS, ours, tokens, update

ROUNDS = 3


def llama(context: int) -> Any:
    """Return transformers' LLaMA."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": DIM, "intermediate_size": LLAMA_HIDDEN, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": LLAMA_HEADS, "max_position_embeddings": context}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, use_cache=False, **sizes, **heads))


def mamba(context: int) -> Any:
    """Return transformers' Mamba."""
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(vocab_size=WORDS, hidden_size=DIM, num_hidden_layers=LAYERS, use_cache=False))


def rwkv(context: int) -> Any:
    """Return transformers' RWKV-4."""
    from transformers import RwkvConfig, RwkvForCausalLM

    sizes = {"hidden_size": DIM, "attention_hidden_size": DIM, "num_hidden_layers": LAYERS, "context_length": context}
    return RwkvForCausalLM(RwkvConfig(vocab_size=WORDS, use_cache=False, **sizes))


class System(NamedTuple):
    """Our experiment, its size, the peer, contexts x batches, whether the peer is compiled too, the ratio wanted."""

    experiment: str
    overrides: tuple[str, ...]
    peer: Callable[[int], Any]
    sizes: tuple[tuple[int, int], ...]
    compiled: bool
    wanted: str


SYSTEMS = {
    "llama": System("llama2_tiny", LLAMA, llama, ((1024, 4), (4096, 1)), True, "2"),
    "mamba": System("mamba_tiny", SMALL, mamba, ((512, 1),), False, "15"),
    "rwkv": System("rwkv4_tiny", SMALL, rwkv, ((1024, 4),), False, "3"),
}


def compare(name: str) -> list[Row]:
    """Measure one system at its sizes."""
    experiment, overrides, peer, sizes, compiled, wanted = SYSTEMS[name]
    rows = []
    for context, batch_size in sizes:
        words, count = tokens(context, batch_size), context * batch_size
        window = (f"model.layers[0].mixer.attention.window_size={context}",) if name == "llama" else ()
        theirs = [peer(context)]
        if compiled:
            theirs.append(torch.compile(peer(context)))
        updates = [update(model, words) for model in (ours(experiment, overrides + window), *theirs)]
        seconds = best_seconds(*updates, rounds=ROUNDS)
        speeds = [count / s for s in seconds]
        rows.append(Row(f"{name} {context}x{batch_size}", speeds[0], max(speeds[1:]), "tokens/s", wanted))
    return rows


def main() -> None:
    """Measure the systems that were asked for, or all."""
    require("transformers")
    for name in sys.argv[1:] or SYSTEMS:
        show(f"{name}, one update in float32, against transformers", compare(name))


if __name__ == "__main__":
    main()
