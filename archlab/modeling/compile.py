"""How a model's layers are run: recomputed in the backward pass, compiled one by one or as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from archlab.modeling.build import iter_blocks
from archlab.runtime.private_apis import cache_graphs_with_autocast
from archlab.runtime.toolchain import has_cpp_compiler

AUTO_COMPILE_FLOPS = 5e13


def apply_activation_checkpointing(model: nn.Module) -> None:
    """Keep only each layer's input for the backward pass, which then computes the layer again."""
    for layer in iter_blocks(model):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def resolve_compile_mode(policy: str, device: torch.device, flops: float) -> str:
    """Return off, block or model; `auto` compiles by block where the run's FLOPs are worth the minute it takes."""
    if policy != "auto":
        return policy
    worth = device.type == "cuda" or (flops >= AUTO_COMPILE_FLOPS and has_cpp_compiler())
    return "block" if worth else "off"


def compile_model(model: nn.Module, policy: str) -> None:
    """Compile in place: one graph that serves all like layers (`block`), or one for the whole (`model`)."""
    if policy == "off":
        return
    cache_graphs_with_autocast()
    if policy == "model" and hasattr(model, "features"):
        model.features = torch.compile(model.features, fullgraph=True)  # type: ignore[assignment,arg-type]
    for part in {"block": [*iter_blocks(model), *_non_block_modules(model)], "model": [model]}[policy]:
        part.compile(fullgraph=True)


def _non_block_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yield what stands around the layers: embedding, last norm, head."""
    inside = {id(part) for layer in iter_blocks(model) for part in layer.modules()}
    for child in model.children():
        if all(id(part) not in inside for part in child.modules()) and any(True for _ in child.parameters()):
            yield child
