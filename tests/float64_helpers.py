"""Comparisons with models of transformers in float64, also where their code computes in float32."""

from pathlib import Path
from typing import Any

import torch
from hugging_face_helpers import random_model
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from archlab.interop import load_pretrained, save_pretrained

# Which theirs compute where a checkpoint lacks them.
BUFFERS = (".slope_rate", ".query_decay", ".key_decay", ".diagonal_decay")
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}  # which alone compute in float64


class Wide(TorchFunctionMode):
    """Has their code compute in float64 where it asks for float32 or for no type: norms, angles, decays, states."""

    def __enter__(self) -> "Wide":
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.set_default_dtype(torch.float32)
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = Tensor.double if func is Tensor.float else func
        return func(*map(self.widen, args), **{name: self.widen(value) for name, value in (kwargs or {}).items()})

    def widen(self, value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value


def wide_model(cls: type, config: object) -> nn.Module:
    """Return a model of theirs in float64 with random values in every parameter."""
    with Wide():
        return random_model(cls, config, torch.float64)


@torch.no_grad()
def wide_logits(theirs: nn.Module, tokens: Tensor) -> Tensor:
    """Return their logits in float64."""
    with Wide():
        logits: Tensor = theirs(tokens, use_cache=False).logits
    return logits


def reload(cls: Any, folder: Path) -> nn.Module:
    """Return their model of a directory in float64, which holds all of it but buffers that they compute."""
    with Wide():
        model, report = cls.from_pretrained(folder, dtype=torch.float64, output_loading_info=True, **EAGER)
    missing = [name for name in report["missing_keys"] if not name.endswith(BUFFERS)]
    assert not any((missing, report["unexpected_keys"], report["mismatched_keys"])), report
    loaded: nn.Module = model.eval()
    return loaded


@torch.no_grad()
def assert_same_in_float64(theirs: nn.Module, folder: Path, model_type: str, tokens: Tensor) -> nn.Module:
    """Their checkpoint loaded here, whole or in pieces, and ours loaded there give the same logits; return ours."""
    theirs.save_pretrained(folder / "theirs")
    ours, expected = load_pretrained(folder / "theirs"), wide_logits(theirs, tokens)
    torch.testing.assert_close(ours(tokens)[0], expected, rtol=0, atol=1e-10)
    state, pieces = None, []
    for piece in tokens.split((1, 2, 5, tokens.shape[1] - 8), 1):
        logits, state = ours(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=0, atol=1e-10)
    save_pretrained(ours, folder / "ours", model_type)
    back = reload(type(theirs), folder / "ours")
    torch.testing.assert_close(wide_logits(back, tokens), expected, rtol=0, atol=1e-10)
    return ours
