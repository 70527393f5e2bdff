"""The models of the benchmarks, and one training step of each: forward, loss, backward, clipping, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from archlab.config.experiment import load
from archlab.modeling.build import build
from archlab.modeling.compile import compile_model
from archlab.runtime.process import configure_process

configure_process()  # before torch allocates: models are imported after _measure has saved the environment

VOCAB_SIZE, DIM, LAYERS = 256, 256, 4
SMALL = (f"model.dim={DIM}", f"model.layers[0].repeat={LAYERS}")
HEADS, SHARED, VALUE, HIDDEN, CHUNK, STATES, GROUPS = 2, 128, 512, 512, 256, 16, 16
MEGALODON = (
    *SMALL,
    f"model.layers[0].mixer.num_heads={HEADS}",
    f"model.layers[0].mixer.shared_dim={SHARED}",
    f"model.layers[0].mixer.value_dim={VALUE}",
    f"model.layers[0].mixer.ema.num_dims={STATES}",
    f"model.layers[0].mixer.attention.window_size={CHUNK}",
    f"model.layers[0].ffn={{type: swiglu, hidden_dim: {HIDDEN}}}",
    f"model.layers[0].norm.num_groups={GROUPS}",
    f"model.norm.num_groups={GROUPS}",
)
LLAMA_HEADS, LLAMA_HIDDEN = 4, 704
LLAMA = (
    *SMALL,
    f"model.layers[0].mixer.num_heads={LLAMA_HEADS}",
    f"model.layers[0].ffn.hidden_dim={LLAMA_HIDDEN}",
)


def ours(name: str, overrides: tuple[str, ...], compiled: str = "block") -> nn.Module:
    """Return one of archlab's models."""
    model = build(load(name, list(overrides)).model)
    compile_model(model, compiled)
    return model


def tokens(context: int, batch_size: int) -> torch.Tensor:
    """Return random tokens, one more than the context."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(VOCAB_SIZE, (batch_size, context + 1), generator=generator)


def training_step(model: nn.Module, token_ids: torch.Tensor, *, precision: str = "float32") -> Callable[[], float]:
    """Return a function that runs one training step of a model, ours or transformers', and returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    bfloat16 = precision == "bfloat16"

    def step() -> float:
        with torch.autocast(token_ids.device.type, torch.bfloat16, enabled=bfloat16):
            logits = _logits(model(token_ids[:, :-1]))
        loss = F.cross_entropy(logits.flatten(0, 1).float(), token_ids[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def _logits(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output.logits
