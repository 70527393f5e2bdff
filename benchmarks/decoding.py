"""Decode latency per token, batch 1, compiled: Megalodon against megalodon-jax, LLaMA against transformers.

python benchmarks/decoding.py [megalodon llama weights]
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from _measure import Row, Step, best_seconds, in_subprocess, require, show
from _models import LLAMA, MEGALODON, VOCAB_SIZE, ours
from megalodon_step import jax_model
from torch import nn
from transformers_step import llama as transformers_llama

from archlab.inference.decoder import Decoder
from archlab.modeling.state import init_state

NUM_TOKENS, ROUNDS, CONTEXT = 50, 10, 1024


def decode(model: nn.Module) -> Step:
    """Return a function that decodes NUM_TOKENS tokens with one of our models."""
    token, decoder = torch.zeros(1, 1, dtype=torch.int64), Decoder(model, init_state(model, 1))
    start = {name: tensor.clone() for name, tensor in decoder.state.items()}

    def step() -> None:
        for name, tensor in decoder.state.items():
            tensor.copy_(start[name])
        for _ in range(NUM_TOKENS):
            decoder(token)

    return step


def jax_decode() -> Step:
    """Return a function that decodes as many tokens with megalodon-jax, compiled."""
    import equinox as eqx
    import jax
    from megalodon_jax.inference import init_cache

    model, config = jax_model()
    token, caches = jax.numpy.zeros((1, 1), jax.numpy.int32), [init_cache(config)]
    call = eqx.filter_jit(lambda model, token, cache: model(token, cache=cache, return_cache=True))

    def step() -> None:
        for _ in range(NUM_TOKENS):
            logits, caches[0] = call(model, token, caches[0])
            logits.block_until_ready()  # JAX dispatches asynchronously

    return step


def transformers_decode(compiled: bool) -> Step:
    """Return a function that decodes as many tokens with transformers' LLaMA and a static cache, eager or compiled."""
    from transformers import StaticCache

    model = transformers_llama(CONTEXT).eval()
    call: Any = torch.compile(model) if compiled else model
    token = torch.zeros(1, 1, dtype=torch.int64)
    cache = StaticCache(config=model.config, max_cache_len=CONTEXT)

    @torch.inference_mode()
    def step() -> None:
        cache.reset()
        for _ in range(NUM_TOKENS):
            call(token, past_key_values=cache, use_cache=True)

    return step


def megalodon() -> Row:
    """Compare Megalodon with megalodon-jax."""
    require("megalodon-jax")
    with in_subprocess(jax_decode) as peer:
        sides = best_seconds(decode(ours("megalodon_tiny", MEGALODON, "off")), peer, rounds=ROUNDS)
    return Row("Megalodon, against megalodon-jax", NUM_TOKENS / sides[0], NUM_TOKENS / sides[1], "tokens/s", "3")


def weights() -> Row:
    """Compare Megalodon's latency per token with the time to read its weights, the bound of memory bandwidth."""
    model = ours("megalodon_tiny", MEGALODON, "off")
    flat = torch.cat([weight.detach().flatten() for weight in model.parameters()])
    sides = best_seconds(decode(model), flat.sum, rounds=10 * ROUNDS)
    return Row(
        "Megalodon, latency per token over reading its weights",
        1e6 * sides[0] / NUM_TOKENS,
        1e6 * sides[1],
        "us",
        "420 us",
    )


def llama() -> Row:
    """Compare LLaMA with the faster of transformers' eager and compiled one."""
    require("transformers")
    window = f"model.layers[0].mixer.attention.window_size={CONTEXT}"
    model = ours("llama2_tiny", (*LLAMA, window), "off")
    with in_subprocess(transformers_decode, False) as eager, in_subprocess(transformers_decode, True) as compiled:
        sides = best_seconds(decode(model), eager, compiled, rounds=ROUNDS)
    return Row("LLaMA, against transformers", NUM_TOKENS / sides[0], NUM_TOKENS / min(sides[1:]), "tokens/s", "2")


def main() -> None:
    """Run the comparisons that the command line names, or all."""
    comparisons = {"megalodon": megalodon, "llama": llama, "weights": weights}
    rows = [comparisons[name]() for name in sys.argv[1:] or comparisons]
    show(f"Decode latency, vocabulary of {VOCAB_SIZE}, batch 1, 4 layers of 256", rows)


if __name__ == "__main__":
    main()
