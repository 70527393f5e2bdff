"""One update of LLaMA, Mamba and RWKV-4 against the same models of transformers, the better of eager and compiled.

The peers run in a process of their own, with torch as it is unasked.

python benchmarks/transformers_step.py [llama mamba rwkv ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from _measure import LENT, Row, Step, apart, best_seconds, require, show
from _models import DIM, LAYERS, LLAMA, LLAMA_HEADS, LLAMA_HIDDEN, SMALL, WORDS, ours, tokens, update

ROUNDS = 6


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


def peer_update(name: str, context: int, batch_size: int, compiled: bool) -> Step:
    """Return one update of a peer, compiled or eager."""
    model = SYSTEMS[name].peer(context)
    return update(torch.compile(model) if compiled else model, tokens(context, batch_size))


def compare(name: str, context: int, batch_size: int) -> list[Row]:
    """Measure one system at one size, with the peer as it is and with our allocator."""
    system = SYSTEMS[name]
    window = (f"model.layers[0].mixer.attention.window_size={context}",) if name == "llama" else ()
    model = ours(system.experiment, system.overrides + window)
    with ExitStack() as processes:
        ways = [(tune, compiled) for tune in ("off", "on") for compiled in {False, system.compiled}]
        size = (context, batch_size)
        peers = [processes.enter_context(apart(peer_update, name, *size, way, tune=tune)) for tune, way in ways]
        seconds = best_seconds(update(model, tokens(context, batch_size)), *peers, rounds=ROUNDS)
    own, *theirs = (context * batch_size / s for s in seconds)
    speeds = dict(zip(ways, theirs, strict=True))
    best = {tune: max(speeds[way] for way in ways if way[0] == tune) for tune in ("off", "on")}
    return [
        Row(f"{name} {context}x{batch_size}", own, best["off"], "tokens/s", system.wanted),
        Row(LENT, own, best["on"], "tokens/s"),
    ]


def main() -> None:
    """Measure the systems that were asked for, or all."""
    require("transformers")
    for name in sys.argv[1:] or SYSTEMS:
        rows = [row for size in SYSTEMS[name].sizes for row in compare(name, *size)]
        show(f"{name}, one update in float32, against transformers", rows)


if __name__ == "__main__":
    main()
