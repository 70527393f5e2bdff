"""The model: `build` constructs it, `load` loads its weights, and `generate` continues a prompt of tokens."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


def build() -> nn.Module:
    """Return the model with randomly initialized parameters."""
    raise NotImplementedError("the export writes this function")


def load(folder: str | Path = Path(__file__).parent, device: str | torch.device = "cpu") -> nn.Module:
    """Return the model in evaluation mode with the weights in `folder`; raise ValueError if their names do not fit."""
    with torch.device(device):
        model = build()
    weights = load_file(Path(folder) / "model.safetensors", device=str(device))
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), name)  # tied tensors are stored once, under their first name
    if weights.keys() != set(first.values()):
        raise ValueError(f"the weights do not fit the model: {sorted(weights.keys() ^ set(first.values()))}")
    model.load_state_dict(weights, strict=False)
    return model.eval()


@torch.inference_mode()
def generate(model: nn.Module, tokens: Sequence[int], num_tokens: int, temperature: float = 1.0) -> list[int]:
    """Return a continuation of `tokens`, sampled from the model's logits; temperature 0 is greedy decoding."""
    device = next(model.parameters()).device
    inputs, state, new = list(tokens), None, list[int]()
    for _ in range(num_tokens):
        logits_BTV, state = model(torch.tensor([inputs], device=device), state)
        logits_V = logits_BTV[0, -1].double()
        if temperature > 0:
            inputs = [int(torch.multinomial((logits_V / temperature).softmax(-1), 1))]
        else:
            inputs = [int(logits_V.argmax())]
        new += inputs
    return new


def main() -> None:
    """Continue the text on the command line, byte by byte."""
    prompt = (" ".join(sys.argv[1:]) or "The ").encode()
    new = generate(load(), list(prompt), num_tokens=200, temperature=0.8)
    print((prompt + bytes(new)).decode(errors="replace"))
