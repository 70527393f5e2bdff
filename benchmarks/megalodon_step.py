"""One update of a Megalodon of 3.7 M parameters, against megalodon-jax and against its own matrix products.

python benchmarks/megalodon_step.py [CONTEXTxBATCH ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from _measure import Row, best_seconds, require, show
from _models import (
    CHUNK,
    DIM,
    GROUPS,
    HEADS,
    HIDDEN,
    LAYERS,
    MEGALODON,
    SHARED,
    STATES,
    VALUE,
    WORDS,
    ours,
    tokens,
    update,
)

SIZES = {"1024x4": "3.2", "4096x1": "9", "16384x1": "12"}
ROUNDS = 5
# Inputs and outputs of a layer's matrices; each is multiplied once forward and twice backward.
MATRICES = [(DIM, VALUE), (DIM, SHARED), (DIM, VALUE), (DIM, DIM), (VALUE, DIM)] + [(DIM, HIDDEN)] * 2 + [(HIDDEN, DIM)]


def products(num_tokens: int) -> float:
    """Return the seconds of an update's matrix products by themselves, each as fast as this machine makes its shape."""
    counts = [(shape, LAYERS) for shape in MATRICES] + [((DIM, WORDS), 1)]
    return sum(count * _matrix(num_tokens, *shape) for shape, count in counts) + LAYERS * _attention(num_tokens)


def _matrix(num_tokens: int, wide: int, out: int) -> float:
    """Return the seconds of one matrix's products, forward and backward."""
    x, w, dy = torch.randn(num_tokens, wide), torch.randn(out, wide), torch.randn(num_tokens, out)
    return sum(best_seconds(lambda: x @ w.T, lambda: dy @ w, lambda: dy.T @ x, rounds=ROUNDS))


def _attention(num_tokens: int) -> float:
    """Return the seconds of one layer's scores and sums of values, forward and backward; half of a chunk is seen."""
    chunks = num_tokens // CHUNK * HEADS
    q, v = torch.randn(chunks, CHUNK, SHARED // HEADS), torch.randn(chunks, CHUNK, VALUE // HEADS)
    weights = torch.randn(chunks, CHUNK, CHUNK)
    pair = best_seconds(lambda: q @ q.mT, lambda: weights @ v, rounds=ROUNDS)
    return 3 * sum(pair) / 2


def jax_model() -> tuple[Any, Any]:
    """Return megalodon-jax's model of the same sizes, and its configuration."""
    import jax
    from megalodon_jax import MegalodonConfig, MegalodonForCausalLM

    config = MegalodonConfig(
        vocab_size=WORDS,
        model_dim=DIM,
        num_layers=LAYERS,
        num_heads=HEADS,
        z_dim=SHARED,
        value_dim=VALUE,
        ffn_hidden_dim=HIDDEN,
        cema_ndim=STATES,
        chunk_size=CHUNK,
        norm_num_groups=GROUPS,
        swiglu=True,
    )
    return MegalodonForCausalLM(config, key=jax.random.PRNGKey(0)), config


def jax_update(words: torch.Tensor) -> Callable[[], float]:
    """Return megalodon-jax's update of the same model, compiled."""
    import equinox as eqx
    import jax
    import optax

    model, _ = jax_model()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    ids = jax.numpy.asarray(words[:, :-1].numpy())

    @eqx.filter_jit
    def step(model, state):
        loss, gradients = eqx.filter_value_and_grad(lambda model: model.compute_loss(ids, ids))(model)
        changes, state = optimizer.update(gradients, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, changes), state, loss

    kept = [model, state]

    def run() -> float:
        kept[0], kept[1], loss = step(*kept)
        return float(loss)

    return run


def main() -> None:
    """Measure the sizes that were asked for, or all."""
    require("megalodon-jax", "optax")
    for size in sys.argv[1:] or SIZES:
        context, batch_size = map(int, size.split("x"))
        words, count = tokens(context, batch_size), context * batch_size
        single, half = (update(ours("megalodon_tiny", MEGALODON), words, precision=p) for p in ("float32", "bfloat16"))
        bare = count / products(count)
        single_s, half_s, jax_s = best_seconds(single, half, jax_update(words), rounds=ROUNDS)
        rows = [
            Row("float32 against megalodon-jax", count / single_s, count / jax_s, "tokens/s", SIZES.get(size, "")),
            Row("bfloat16 against float32", count / half_s, count / single_s, "tokens/s", "1.35"),
            Row("float32 against its matrix products", count / single_s, bare, "tokens/s", "0.68"),
        ]
        show(f"Megalodon, one update, {size}", rows)


if __name__ == "__main__":
    main()
