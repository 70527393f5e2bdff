"""One token after another, batch 1, compiled: Megalodon against megalodon-jax, LLaMA against transformers.

python benchmarks/decoding.py [megalodon llama alone]
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from _measure import Row, Step, apart, best_seconds, require, show
from _models import LLAMA, MEGALODON, WORDS, ours
from megalodon_step import jax_model
from torch import nn
from transformers_step import llama as transformers_llama

from archlab.inference.decoder import Decoder
from archlab.modeling.state import init_state

TOKENS, ROUNDS, CONTEXT = 50, 10, 1024


def stream(model: nn.Module) -> Step:
    """Return a function that decodes some tokens with one of our models."""
    start, token = init_state(model, 1), torch.zeros(1, 1, dtype=torch.int64)
    decoder = Decoder(model, start)

    def step() -> None:
        for name, tensor in decoder.state.items():
            tensor.copy_(start[name])
        for _ in range(TOKENS):
            decoder(token)

    return step


def jax_stream() -> Step:
    """Return a function that decodes as many tokens with megalodon-jax, compiled."""
    import equinox as eqx
    import jax
    from megalodon_jax.inference import init_cache

    model, config = jax_model()
    token, kept = jax.numpy.zeros((1, 1), jax.numpy.int32), [init_cache(config)]
    call = eqx.filter_jit(lambda model, token, cache: model(token, cache=cache, return_cache=True))

    def step() -> None:
        for _ in range(TOKENS):
            logits, kept[0] = call(model, token, kept[0])
            logits.block_until_ready()

    return step


def transformers_stream(compiled: bool) -> Step:
    """Return a function that decodes as many tokens with transformers' LLaMA and a static cache, eager or compiled."""
    from transformers import StaticCache

    model = transformers_llama(CONTEXT).eval()
    call: Any = torch.compile(model) if compiled else model
    token = torch.zeros(1, 1, dtype=torch.int64)
    cache = StaticCache(config=model.config, max_cache_len=CONTEXT)

    @torch.inference_mode()
    def step() -> None:
        cache.reset()
        for _ in range(TOKENS):
            call(token, past_key_values=cache, use_cache=True)

    return step


def megalodon() -> Row:
    """Measure Megalodon beside megalodon-jax."""
    require("megalodon-jax")
    with apart(jax_stream) as peer:
        sides = best_seconds(stream(ours("megalodon_tiny", MEGALODON, "off")), peer, rounds=ROUNDS)
    return Row("Megalodon, against megalodon-jax", TOKENS / sides[0], TOKENS / sides[1], "tokens/s", "3")


def alone() -> Row:
    """Measure Megalodon by itself, beside what reading its weights takes."""
    model = ours("megalodon_tiny", MEGALODON, "off")
    weights = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    sides = best_seconds(stream(model), weights.sum, rounds=10 * ROUNDS)
    return Row("Megalodon, a token over reading its weights", 1e6 * sides[0] / TOKENS, 1e6 * sides[1], "us", "420 us")


def llama() -> Row:
    """Measure LLaMA beside the better of transformers' eager and compiled one."""
    require("transformers")
    window = f"model.layers[0].mixer.attention.window_size={CONTEXT}"
    model = ours("llama2_tiny", (*LLAMA, window), "off")
    with apart(transformers_stream, False) as eager, apart(transformers_stream, True) as compiled:
        sides = best_seconds(stream(model), eager, compiled, rounds=ROUNDS)
    return Row("LLaMA, against transformers", TOKENS / sides[0], TOKENS / min(sides[1:]), "tokens/s", "2")


def main() -> None:
    """Measure what was asked for, or all."""
    measured = {"megalodon": megalodon, "llama": llama, "alone": alone}
    rows = [measured[name]() for name in sys.argv[1:] or measured]
    show(f"One token after another, {WORDS} words, batch 1, 4 layers of 256", rows)


if __name__ == "__main__":
    main()
