"""A training step of a Megalodon of 3.7 M parameters, against megalodon-jax and against its own matrix products.

python benchmarks/megalodon_step.py [CONTEXTxBATCH ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from _measure import SHARED_ALLOCATOR, Row, Step, best_seconds, in_subprocess, require, show
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
    VOCAB_SIZE,
    ours,
    tokens,
    training_step,
)

from archlab.runtime.matmul_precision import DEFAULT, select_matmul_precision, use_mode
from archlab.runtime.mixed_precision import bfloat16_speedup

# Targets of the ratio to the peer: with the matmul mode that archlab selects, and with torch's default.
SIZES = {"1024x4": ("3.2", "1.6"), "4096x1": ("9", "4.7"), "16384x1": ("12", "6.1")}
ROUNDS = 5
# Inputs and outputs of a layer's matrices; each has one product forward and two backward.
MATRICES = [(DIM, VALUE), (DIM, SHARED), (DIM, VALUE), (DIM, DIM), (VALUE, DIM)] + [(DIM, HIDDEN)] * 2 + [(HIDDEN, DIM)]


def products(num_tokens: int) -> Step:
    """Return a function that computes the matrix products of a training step, and nothing else."""
    pairs = [pair for shape in MATRICES for pair in _matrix(num_tokens, *shape)] + _attention(num_tokens)
    ends = _matrix(num_tokens, DIM, VOCAB_SIZE)

    def step() -> None:
        for a, b in pairs * LAYERS + ends:
            torch.matmul(a, b)

    return step


def _matrix(num_tokens: int, wide: int, out: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the factors of one matrix's products, forward and backward."""
    x, w, dy = torch.randn(num_tokens, wide), torch.randn(out, wide), torch.randn(num_tokens, out)
    return [(x, w.T), (dy, w), (dy.T, x)]


def _attention(num_tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the factors of one layer's attention, and twice as many for its gradients; a query sees half a chunk."""
    chunks = num_tokens // CHUNK * HEADS
    q, v = torch.randn(chunks, CHUNK, SHARED // HEADS), torch.randn(chunks, CHUNK, VALUE // HEADS)
    keys, weights = q[:, : CHUNK // 2], torch.randn(chunks, CHUNK, CHUNK // 2)
    return [(q, keys.mT), (weights, v[:, : CHUNK // 2])] * 3


def jax_model() -> tuple[Any, Any]:
    """Return megalodon-jax's model of the same sizes, and its configuration."""
    import jax
    from megalodon_jax import MegalodonConfig, MegalodonForCausalLM

    config = MegalodonConfig(
        vocab_size=VOCAB_SIZE,
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


def jax_step(context: int, batch_size: int) -> Step:
    """Return megalodon-jax's training step of the same model, compiled."""
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

    latest = [model, state]

    def run() -> float:
        latest[0], latest[1], loss = step(*latest)
        return float(loss)

    return run


def our_steps(context: int, batch_size: int) -> dict[str, Step]:
    """Return our steps: the training step, its matrix products, and the step in other matmul modes and precisions."""
    token_ids = tokens(context, batch_size)
    single = training_step(ours("megalodon_tiny", MEGALODON), token_ids)
    steps: dict[str, Step] = {"ours": single, "products": products(context * batch_size)}
    if select_matmul_precision() != DEFAULT:
        steps["default"] = with_default_matmul(single)
    if bfloat16_speedup("cpu") > 1:
        steps["bfloat16"] = training_step(ours("megalodon_tiny", MEGALODON), token_ids, precision="bfloat16")
    return steps


def compare(size: str) -> list[Row]:
    """Compare at one size, the peer in processes of its own, with the fastest settings and with torch's defaults."""
    context, batch_size = map(int, size.split("x"))
    with ExitStack() as processes:
        steps = our_steps(context, batch_size)
        for name, tune in (("jax", "off"), ("shared_allocator", "on")):
            steps[name] = processes.enter_context(in_subprocess(jax_step, context, batch_size, tune=tune))
        best = best_seconds(*steps.values(), rounds=ROUNDS)
    speeds = {name: context * batch_size / seconds for name, seconds in zip(steps, best, strict=True)}
    target, default_target = SIZES.get(size, ("", ""))
    comparisons = {
        ("ours", "jax"): ("float32, against megalodon-jax", target if "default" in steps else default_target),
        ("ours", "shared_allocator"): (SHARED_ALLOCATOR, ""),
        ("default", "jax"): ("the same with torch's default matmul", default_target),
        ("bfloat16", "ours"): ("bfloat16, against float32", "1.35"),
        ("ours", "products"): ("float32, against its matrix products", "0.68"),
    }
    measured = {pair: row for pair, row in comparisons.items() if pair[0] in speeds}
    return [Row(what, speeds[a], speeds[b], "tokens/s", goal) for (a, b), (what, goal) in measured.items()]


def with_default_matmul(step: Callable[[], float]) -> Callable[[], float]:
    """Return the step with torch's default matmul mode."""

    def run() -> float:
        with use_mode(DEFAULT):
            return step()

    return run


def main() -> None:
    """Compare at the sizes that the command line names, or all."""
    require("megalodon-jax", "optax")
    for size in sys.argv[1:] or SIZES:
        show(f"Megalodon, a training step, {size}", compare(size))
    if select_matmul_precision() == DEFAULT:
        print("torch's default matmul mode is the fastest exact one here")
    if bfloat16_speedup("cpu") <= 1:
        print(f"bfloat16 is not measured: its products have {bfloat16_speedup('cpu'):.2g} times the speed of float32's")


if __name__ == "__main__":
    main()
