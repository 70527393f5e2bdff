"""A training step of LLaMA, Mamba and RWKV-4 against transformers' models, the faster of eager and compiled.

Peers run in processes of their own, with torch's default settings.

python benchmarks/transformers_step.py [llama mamba rwkv ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from _measure import SHARED_ALLOCATOR, Row, Step, best_seconds, in_subprocess, require, show
from _models import DIM, LAYERS, LLAMA, LLAMA_HEADS, LLAMA_HIDDEN, SMALL, VOCAB_SIZE, ours, tokens, training_step

ROUNDS = 6


def llama(context: int) -> Any:
    """Return transformers' LLaMA."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": DIM, "intermediate_size": LLAMA_HIDDEN, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": LLAMA_HEADS, "max_position_embeddings": context}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB_SIZE, use_cache=False, **sizes, **heads))


def mamba(context: int) -> Any:
    """Return transformers' Mamba."""
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(
        MambaConfig(vocab_size=VOCAB_SIZE, hidden_size=DIM, num_hidden_layers=LAYERS, use_cache=False)
    )


def rwkv(context: int) -> Any:
    """Return transformers' RWKV-4."""
    from transformers import RwkvConfig, RwkvForCausalLM

    sizes = {"hidden_size": DIM, "attention_hidden_size": DIM, "num_hidden_layers": LAYERS, "context_length": context}
    return RwkvForCausalLM(RwkvConfig(vocab_size=VOCAB_SIZE, use_cache=False, **sizes))


class System(NamedTuple):
    """Our experiment, its size, the peer, contexts and batch sizes, whether to compile the peer, the target ratio."""

    experiment: str
    overrides: tuple[str, ...]
    peer: Callable[[int], Any]
    sizes: tuple[tuple[int, int], ...]
    compiled: bool
    target: str


SYSTEMS = {
    "llama": System("llama2_tiny", LLAMA, llama, ((1024, 4), (4096, 1)), True, "2"),
    "mamba": System("mamba_tiny", SMALL, mamba, ((512, 1),), False, "15"),
    "rwkv": System("rwkv4_tiny", SMALL, rwkv, ((1024, 4),), False, "3"),
}


def peer_step(name: str, context: int, batch_size: int, compiled: bool) -> Step:
    """Return a training step of a peer, compiled or eager."""
    model = SYSTEMS[name].peer(context)
    return training_step(torch.compile(model) if compiled else model, tokens(context, batch_size))


def compare(name: str, context: int, batch_size: int) -> list[Row]:
    """Compare one system at one size, the peer with its own allocator and sharing ours."""
    system = SYSTEMS[name]
    window = (f"model.layers[0].mixer.attention.window_size={context}",) if name == "llama" else ()
    model = ours(system.experiment, system.overrides + window)
    with ExitStack() as processes:
        variants = [(tune, compiled) for tune in ("off", "on") for compiled in {False, system.compiled}]
        size = (context, batch_size)
        peers = [
            processes.enter_context(in_subprocess(peer_step, name, *size, compiled, tune=tune))
            for tune, compiled in variants
        ]
        seconds = best_seconds(training_step(model, tokens(context, batch_size)), *peers, rounds=ROUNDS)
    own, *theirs = (context * batch_size / s for s in seconds)
    speeds = dict(zip(variants, theirs, strict=True))
    best = {tune: max(speeds[variant] for variant in variants if variant[0] == tune) for tune in ("off", "on")}
    return [
        Row(f"{name} {context}x{batch_size}", own, best["off"], "tokens/s", system.target),
        Row(SHARED_ALLOCATOR, own, best["on"], "tokens/s"),
    ]


def main() -> None:
    """Compare the systems that the command line names, or all."""
    require("transformers")
    for name in sys.argv[1:] or SYSTEMS:
        rows = [row for size in SYSTEMS[name].sizes for row in compare(name, *size)]
        show(f"{name}, a training step in float32, against transformers", rows)


if __name__ == "__main__":
    main()
