"""A training step in bfloat16 on a GPU: LLaMA against transformers' own, Megalodon against its PyTorch operations.

python benchmarks/gpu_step.py [llama deterministic megalodon ...]
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from _measure import Row, require, show
from _models import training_step
from torch import nn

from archlab.config.experiment import load
from archlab.modeling.build import build
from archlab.modeling.compile import compile_model
from archlab.ops.dispatch import reference_only
from archlab.ops.triton import register_triton_backends
from archlab.runtime.determinism import deterministic_algorithms
from archlab.runtime.timing import time_call

DEVICE = torch.device("cuda")
CONTEXT, BATCH_SIZE, VOCAB_SIZE, DIM, LAYERS, HEADS, HIDDEN = 4096, 4, 32_000, 1024, 12, 16, 2816
ROUNDS = 5
SIZES = (f"model.vocab_size={VOCAB_SIZE}", f"model.dim={DIM}", f"model.layers[0].repeat={LAYERS}")
LLAMA = (
    "llama2_7b",
    "task=stdlib",
    *SIZES,
    f"model.layers[0].mixer.num_heads={HEADS}",
    f"model.layers[0].mixer.attention.window_size={CONTEXT}",
    f"model.layers[0].ffn.hidden_dim={HIDDEN}",
)
MEGALODON = (
    "megalodon_7b",
    "task=stdlib",
    *SIZES,
    "model.layers[0].mixer.shared_dim=256",
    "model.layers[0].mixer.value_dim=2048",
    "model.layers[0].mixer.num_heads=2",
    "model.layers[0].mixer.attention.window_size=2048",
    "model.layers[0].norm.num_groups=32",
    "model.layers[0].ffn.hidden_dim=2560",
    "model.norm.num_groups=32",
)


def ours(name: str, *overrides: str) -> nn.Module:
    """Return one of archlab's models on the GPU, compiled by block."""
    model = build(load(name, list(overrides)).model).to(DEVICE)
    compile_model(model, "block")
    return model


def transformers_llama() -> Any:
    """Return transformers' LLaMA of the same sizes, compiled as one graph."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": DIM, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": HEADS, "max_position_embeddings": CONTEXT}
    config = LlamaConfig(vocab_size=VOCAB_SIZE, use_cache=False, **sizes, **heads)
    return torch.compile(LlamaForCausalLM(config).to(DEVICE))


def speed(make: Callable[[], Any], operations: AbstractContextManager[None]) -> float:
    """Return the tokens per second of the fastest of some training steps."""
    torch.manual_seed(0)
    token_ids = torch.randint(VOCAB_SIZE, (BATCH_SIZE, CONTEXT + 1), device=DEVICE)
    with operations:
        step = training_step(make(), token_ids, precision="bfloat16")
        step()
        best = min(time_call(step, DEVICE) for _ in range(ROUNDS))
    del step
    gc.collect()
    torch.cuda.empty_cache()
    return CONTEXT * BATCH_SIZE / best


def llama() -> Row:
    """Compare LLaMA, trained as archlab trains, with transformers' model, trained as its users do."""
    own = speed(lambda: ours(*LLAMA), deterministic_algorithms())
    return Row("LLaMA with transformers'", own, speed(transformers_llama, nullcontext()), "tokens/s")


def deterministic() -> Row:
    """Compare LLaMA whose steps are the same at every run with LLaMA whose steps are not."""
    own, other = (speed(lambda: ours(*LLAMA), mode) for mode in (deterministic_algorithms(), nullcontext()))
    return Row("deterministic LLaMA with one that is not", own, other, "tokens/s")


def megalodon() -> Row:
    """Compare Megalodon whose recurrences and norms are Triton kernels with PyTorch's implementations, compiled."""
    own, peer = (speed(lambda: ours(*MEGALODON), operations) for operations in (nullcontext(), reference_only()))
    return Row("Megalodon with its PyTorch operations", own, peer, "tokens/s")


COMPARISONS = {"llama": llama, "deterministic": deterministic, "megalodon": megalodon}


def main() -> None:
    """Make the comparisons that the command line names, or all."""
    require("triton", "transformers")
    if not torch.cuda.is_available():
        print("this benchmark needs a GPU", file=sys.stderr)
        sys.exit(2)
    register_triton_backends()
    size = f"{LAYERS} layers of {DIM}, {BATCH_SIZE} sequences of {CONTEXT}"
    rows = [COMPARISONS[name]() for name in sys.argv[1:] or COMPARISONS]
    show(f"{torch.cuda.get_device_name()}, a training step in bfloat16, {size}", rows)


if __name__ == "__main__":
    main()
