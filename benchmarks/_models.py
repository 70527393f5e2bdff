"""The models that are compared, and one update of each: forward, loss, backward, clipping, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from archlab.config import load
from archlab.execution import compile_model
from archlab.model import build
from archlab.process import settle_process

settle_process()

WORDS, DIM, LAYERS, HEADS = 256, 256, 4, 2
MEGALODON = (
    f"model.dim={DIM}",
    f"model.layers[0].repeat={LAYERS}",
    f"model.layers[0].mixer.num_heads={HEADS}",
    "model.layers[0].mixer.shared_dim=128",
    "model.layers[0].mixer.value_dim=512",
    "model.layers[0].mixer.ema.num_dims=16",
    "model.layers[0].mixer.attention.window_size=256",
    "model.layers[0].ffn={type: swiglu, hidden_dim: 512}",
    "model.layers[0].norm.num_groups=16",
    "model.norm.num_groups=16",
)
LLAMA = (
    f"model.dim={DIM}",
    f"model.layers[0].repeat={LAYERS}",
    "model.layers[0].mixer.num_heads=4",
    "model.layers[0].ffn.hidden_dim=704",
)


def ours(name: str, overrides: tuple[str, ...], compiled: str = "block") -> nn.Module:
    """Return one of archlab's models."""
    model = build(load(name, list(overrides)).model)
    compile_model(model, compiled)
    return model


def tokens(context: int, batch_size: int) -> torch.Tensor:
    """Return random words, one more than the context."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(WORDS, (batch_size, context + 1), generator=generator)


def update(model: nn.Module, words: torch.Tensor, *, precision: str = "float32") -> Callable[[], float]:
    """Return one update of a model, ours or of transformers, as a function; it returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    half = precision == "bfloat16"

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = _logits(model(words[:, :-1]))
        loss = F.cross_entropy(logits.flatten(0, 1).float(), words[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def _logits(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output.logits
