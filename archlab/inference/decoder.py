"""Compiled single-token decoding, limited by the memory bandwidth of reading the weights; the state is in place.

B batch, H heads, K key width, Q queries, S keys, V outputs, or value width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from archlab.inference.aot import AOTModule
from archlab.inference.tracing import trace
from archlab.modeling.build import eval_mode
from archlab.modeling.state import State, reserve_state
from archlab.ops.dtypes import at_least_float32
from archlab.runtime.private_apis import quote_library_dirs

# The weighted sum of the values is a sum over blocks of this many keys: a block is in a few pages of memory.
KEY_BLOCK = 16


class Decoder:
    """Decodes one token per call, [B, 1] -> logits [B, 1, V], from a copy of a state.

    The compiled step has tensors of one shape, so the state is preallocated for a stream of `num_tokens` tokens, those
    already read among them, or by default of any length: whole windows, which each step reads. A longer stream is an
    error. The model is compiled as a whole at the first call, for this batch size and for the weights at that time:
    tensors that depend on weights alone are constants. Raises ValueError for tokens of another shape.
    """

    def __init__(self, model: nn.Module, state: State, num_tokens: int | None = None) -> None:
        self.state = {name: tensor.clone() for name, tensor in reserve_state(model, state, num_tokens).items()}
        first = next(iter(state.values()))
        self._tokens_B1 = torch.zeros(len(first), 1, dtype=torch.int64, device=first.device)
        self._model = model
        self._step: Callable[..., Any] | None = None

    @torch.no_grad()
    def __call__(self, tokens_B1: Tensor) -> Tensor:
        """Return the logits after one more token and update the state in place."""
        if tokens_B1.shape != self._tokens_B1.shape:
            raise ValueError(f"tokens {list(tokens_B1.shape)} are not {list(self._tokens_B1.shape)}")
        self._tokens_B1.copy_(tokens_B1)
        if self._step is None:
            self._step = self._compile()
        (logits_B1V,) = self._step(self._tokens_B1, *self.state.values())
        return logits_B1V

    def _compile(self) -> Callable[..., Any]:
        advance = _DecodeStep(self._model, tuple(self.state))
        inputs = (self._tokens_B1, *self.state.values())
        with eval_mode(advance):
            if self._tokens_B1.device.type != "cpu":
                quote_library_dirs()
                # Traced here, in evaluation mode: torch.compile itself traces at the first call, outside of it.
                return torch.compile(trace(advance, inputs), fullgraph=True, dynamic=False)
            with SingleTokenMode():
                return AOTModule(advance, inputs)


class _DecodeStep(nn.Module):
    """A decoding step that writes the new state over the old one, so that the compiler updates windows in place."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, tokens_B1: Tensor, *state: Tensor) -> tuple[Tensor]:
        logits_B1V, new_state = self.model(tokens_B1, dict(zip(self.names, state, strict=True)))
        # After the model has read all of the old state.
        for name, tensor in zip(self.names, state, strict=True):
            tensor.copy_(new_state[name])
        return (logits_B1V,)


class SingleTokenMode(TorchFunctionMode):
    """Replaces matrix-vector products, and attention with one query, by sums, which Inductor fuses with other loops.

    As calls of a matrix library they read the weights two to three times as slowly.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the replacement of a function, if it has one."""
        return _REPLACEMENTS.get(function, function)(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weightᵀ + bias."""
    # Only a single row: with more, a matrix library reuses each weight that it reads.
    if x.numel() != x.shape[-1]:
        return F.linear(x, weight, bias)
    y = (at_least_float32(x.flatten()) * at_least_float32(weight)).sum(-1)
    y = y if bias is None else y + at_least_float32(bias)
    return y.to(x.dtype).unflatten(0, (*x.shape[:-1], -1))


def _attention(
    q_BHQK: Tensor,
    k_BHSK: Tensor,
    v_BHSV: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return scaled dot-product attention [B, H, Q, V]."""
    # Only the case of decoding: one query and a mask. A single query with is_causal would see the first key alone.
    if q_BHQK.shape[2] != 1 or attn_mask is None or dropout_p or is_causal or enable_gqa:
        options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
        return F.scaled_dot_product_attention(q_BHQK, k_BHSK, v_BHSV, attn_mask, dropout_p, is_causal, **options)
    q_BH1K, k_BHSK, v = (at_least_float32(x) for x in (q_BHQK, k_BHSK, v_BHSV))
    scale = q_BH1K.shape[-1] ** -0.5 if scale is None else scale
    scores_BHS = (q_BH1K * k_BHSK).sum(-1) * scale
    mask_BHS = attn_mask.expand(*attn_mask.shape[:-2], 1, k_BHSK.shape[2])[..., 0, :]
    is_bool = mask_BHS.dtype == torch.bool
    scores_BHS = scores_BHS.masked_fill(~mask_BHS, -math.inf) if is_bool else scores_BHS + mask_BHS
    weighted_BHSV = scores_BHS.softmax(-1)[..., None] * v
    y_BHV = weighted_BHSV.unflatten(2, (-1, math.gcd(v.shape[2], KEY_BLOCK))).sum(3).sum(2)
    return y_BHV[:, :, None].to(v_BHSV.dtype)


_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: _linear,
    F.scaled_dot_product_attention: _attention,
}
