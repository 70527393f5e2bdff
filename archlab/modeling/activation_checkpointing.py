"""Activation checkpointing of a model's blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal, TypeAlias

from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from archlab.modeling.backbone import iter_blocks
from archlab.runtime.private_apis import flop_formula, op_namespace

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
