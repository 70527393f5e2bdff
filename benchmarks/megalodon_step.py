"""One update of a Megalodon of 3.7 M parameters, against megalodon-jax and against its own matrix products.

python benchmarks/megalodon_step.py [CONTEXTxBATCH ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from _measure import LENT, Row, Step, apart, best_seconds, require, show
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

from archlab.runtime.matmul_precision import DEFAULT, select_matmul_precision, use_mode
from archlab.runtime.mixed_precision import bfloat16_speedup

# What is wanted of the ratio to the peer: with the products that archlab takes, and with torch's stock ones.
SIZES = {"1024x4": ("3.2", "1.6"), "4096x1": ("9", "4.7"), "16384x1": ("12", "6.1")}
ROUNDS = 5
# Inputs and outputs of a layer's matrices; each is multiplied once forward and twice backward.
MATRICES = [(DIM, VALUE), (DIM, SHARED), (DIM, VALUE), (DIM, DIM), (VALUE, DIM)] + [(DIM, HIDDEN)] * 2 + [(HIDDEN, DIM)]


def products(num_tokens: int) -> Step:
    """Return an update's matrix products by themselves, one after the other, as a function."""
    pairs = [pair for shape in MATRICES for pair in _matrix(num_tokens, *shape)] + _attention(num_tokens)
    ends = _matrix(num_tokens, DIM, WORDS)

    def step() -> None:
        for a, b in pairs * LAYERS + ends:
            torch.matmul(a, b)

    return step


def _matrix(num_tokens: int, wide: int, out: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return what one matrix is multiplied by, forward and backward."""
    x, w, dy = torch.randn(num_tokens, wide), torch.randn(out, wide), torch.randn(num_tokens, out)
    return [(x, w.T), (dy, w), (dy.T, x)]


def _attention(num_tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return one layer's scores and sums of values, and as much twice for the gradients; half of a chunk is seen."""
    chunks = num_tokens // CHUNK * HEADS
    q, v = torch.randn(chunks, CHUNK, SHARED // HEADS), torch.randn(chunks, CHUNK, VALUE // HEADS)
    keys, weights = q[:, : CHUNK // 2], torch.randn(chunks, CHUNK, CHUNK // 2)
    return [(q, keys.mT), (weights, v[:, : CHUNK // 2])] * 3


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


def jax_update(context: int, batch_size: int) -> Step:
    """Return megalodon-jax's update of the same model, compiled."""
    import equinox as eqx
    import jax
    import optax

    model, _ = jax_model()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
    ids = jax.numpy.asarray(tokens(context, batch_size)[:, :-1].numpy())

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


def our_steps(context: int, batch_size: int) -> dict[str, Step]:
    """Return what is measured of ours: the update, its products, and it in other ways that this machine has."""
    words = tokens(context, batch_size)
    single = update(ours("megalodon_tiny", MEGALODON), words)
    steps: dict[str, Step] = {"ours": single, "bare": products(context * batch_size)}
    if select_matmul_precision() != DEFAULT:
        steps["stock"] = in_stock_way(single)
    if bfloat16_speedup("cpu") > 1:
        steps["half"] = update(ours("megalodon_tiny", MEGALODON), words, precision="bfloat16")
    return steps


def compare(size: str) -> list[Row]:
    """Measure one size, the peer in a process of its own: what the machine makes fast, and what torch does unasked."""
    context, batch_size = map(int, size.split("x"))
    with ExitStack() as processes:
        steps = our_steps(context, batch_size)
        for name, tune in (("jax", "off"), ("lent", "on")):
            steps[name] = processes.enter_context(apart(jax_update, context, batch_size, tune=tune))
        best = best_seconds(*steps.values(), rounds=ROUNDS)
    speeds = {name: context * batch_size / seconds for name, seconds in zip(steps, best, strict=True)}
    wanted, of_stock = SIZES.get(size, ("", ""))
    asked = {
        ("ours", "jax"): ("float32, against megalodon-jax", wanted if "stock" in steps else of_stock),
        ("ours", "lent"): (LENT, ""),
        ("stock", "jax"): ("the same with torch's stock products", of_stock),
        ("half", "ours"): ("bfloat16, against float32", "1.35"),
        ("ours", "bare"): ("float32, against its matrix products", "0.68"),
    }
    found = {pair: row for pair, row in asked.items() if pair[0] in speeds}
    return [Row(what, speeds[a], speeds[b], "tokens/s", least) for (a, b), (what, least) in found.items()]


def in_stock_way(step: Callable[[], float]) -> Callable[[], float]:
    """Return the step with torch's stock products."""

    def run() -> float:
        with use_mode(DEFAULT):
            return step()

    return run


def main() -> None:
    """Measure the sizes that were asked for, or all."""
    require("megalodon-jax", "optax")
    for size in sys.argv[1:] or SIZES:
        show(f"Megalodon, one update, {size}", compare(size))
    if select_matmul_precision() == DEFAULT:
        print("torch's stock products are the fastest exact ones here")
    if bfloat16_speedup("cpu") <= 1:
        print(f"bfloat16 products are {bfloat16_speedup('cpu'):.2g} times as fast as float32: bfloat16 is not measured")


if __name__ == "__main__":
    main()
