"""Compilation and activation checkpointing of a model's blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from archlab.modeling.backbone import get_features, iter_blocks
from archlab.runtime.private_apis import cache_graphs_with_autocast, flop_formula, op_namespace
from archlab.runtime.toolchain import has_cpp_compiler

# Compiling takes about a minute: on a CPU it is worth that only to runs of several, which these FLOPs take.
AUTO_COMPILE_FLOPS = 5e13
Checkpointing: TypeAlias = Literal[True, "selective"]


def apply_activation_checkpointing(model: nn.Module, kind: Checkpointing) -> None:
    """Save the input of each block alone for the backward pass, which recomputes the rest.

    A `selective` one also saves the results that cost most to recompute: results of matrix products, of attention and
    of scans.
    """
    for layer in iter_blocks(model):
        recomputed = partial(checkpoint, layer.forward, use_reentrant=False)
        layer.forward = partial(recomputed, context_fn=_selective_contexts) if kind == "selective" else recomputed


def trace_activation_checkpointing(
    model: nn.Module, kind: Checkpointing, recomputing: Callable[[], AbstractContextManager[None]]
) -> None:
    """Do the same to a model without values: no random state is restored; `recomputing` wraps recomputation."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        saving, repeating = _selective_contexts() if kind == "selective" else (nullcontext(), nullcontext())
        return saving, _both(repeating, recomputing())

    for layer in iter_blocks(model):
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
        )


@contextmanager
def _both(outer: AbstractContextManager[None], inner: AbstractContextManager[None]) -> Iterator[None]:
    with outer, inner:
        yield


def _is_worth_saving(
    _: SelectiveCheckpointContext, operation: object, *args: object, **kwargs: object
) -> CheckpointPolicy:
    is_product = (
        flop_formula(getattr(operation, "overloadpacket", None)) is not None or op_namespace(operation) == "archlab"
    )
    return CheckpointPolicy.MUST_SAVE if is_product else CheckpointPolicy.PREFER_RECOMPUTE


_selective_contexts = partial(create_selective_checkpoint_contexts, _is_worth_saving)


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
