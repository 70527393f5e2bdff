"""Compilation of a model's blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from archlab.modeling.backbone import get_features, iter_blocks
from archlab.runtime.private_apis import cache_graphs_with_autocast, quote_library_dirs
from archlab.runtime.toolchain import has_cpp_compiler

# Compiling takes about a minute: on a CPU it is worth that only to runs of several, which these FLOPs take.
AUTO_COMPILE_FLOPS = 5e13


def resolve_compile_mode(policy: str, device: torch.device, flops: float) -> str:
    """Return off, block or model; `auto` is block on a GPU, and on a CPU for runs above AUTO_COMPILE_FLOPS."""
    if policy != "auto":
        return policy
    is_worthwhile = device.type == "cuda" or (flops >= AUTO_COMPILE_FLOPS and has_cpp_compiler())
    return "block" if is_worthwhile else "off"


def compile_model(model: nn.Module, policy: str, backend: str = "inductor", *, hooked: bool = False) -> None:
    """Compile in place: block by block, where identical blocks share one graph, or the whole model as one graph.

    `hooked` keeps hooks, such as FSDP's, outside of the compiled code.
    """
    if policy == "off":
        return
    cache_graphs_with_autocast()
    quote_library_dirs()
    features = get_features(model)
    if policy == "model" and features is not None:
        # The chunked loss calls features, not the model, and would otherwise run it uncompiled.
        model.features = torch.compile(features, fullgraph=True, backend=backend)  # type: ignore[assignment]
    for part in {"block": compiled_parts(model), "model": [model]}[policy]:
        if hooked:
            part.forward = torch.compile(part.forward, fullgraph=True, backend=backend)
        else:
            part.compile(fullgraph=True, backend=backend)


def compiled_parts(model: nn.Module) -> list[nn.Module]:
    """Return the modules that are compiled one by one: the blocks, and others that have parameters."""
    return [*iter_blocks(model), *_non_block_modules(model)]


def _non_block_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules around the blocks that have parameters, torch's own excepted: embedding, last norm, head."""
    inside = {id(part) for layer in iter_blocks(model) for part in layer.modules()}
    for child in model.children():
        # Dynamo skips torch's own forward methods, so that nothing of such a module by itself is compiled.
        is_torchs = type(child).forward.__module__.startswith("torch.")
        if (
            not is_torchs
            and all(id(part) not in inside for part in child.modules())
            and any(True for _ in child.parameters())
        ):
            yield child
