"""The model: `build` constructs it, `load` loads its weights, and `generate` continues a prompt of tokens."""

from __future__ import annotations

import hashlib
import json
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
    """Return the model in evaluation mode with the weights in `folder`.

    Raises ValueError naming the file that is damaged, or the tensor that does not fit.
    """
    with torch.device(device):
        model = build()
    weights, first = dict[str, torch.Tensor](), dict[int, str]()
    for file in weight_files(Path(folder)):
        weights |= load_file(file, device=str(device))
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), name)  # tied tensors are stored once, under their first name
    if weights.keys() == {f"model.{name}" for name in first.values()}:  # transformers' save_pretrained wrote them
        weights = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    if weights.keys() != set(first.values()):
        raise ValueError(f"{folder}: the weights do not fit the model: {sorted(weights.keys() ^ set(first.values()))}")
    for name, tensor in model.state_dict().items():
        if name in weights and weights[name].shape != tensor.shape:
            raise ValueError(f"{folder}: {name} has shape {list(weights[name].shape)} and not {list(tensor.shape)}")
    model.load_state_dict(weights, strict=False)
    return model.eval()


def weight_files(folder: Path) -> list[Path]:
    """Return a folder's safetensors files; raise ValueError naming one that is missing or not as it was written."""
    index, listed = folder / "model.safetensors.index.json", folder / "manifest.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    # transformers' save_pretrained leaves no manifest.
    known = json.loads(listed.read_text(encoding="utf-8"))["files"] if listed.is_file() else {}
    missing = sorted(name for name in names if Path(name).name != name or not (folder / name).is_file())
    if missing:
        raise ValueError(f"{folder}: has no file {missing[0]!r}")
    for name in sorted(names):
        if name in known and _sha256(folder / name) != known[name]["sha256"]:
            raise ValueError(f"{folder / name}: has changed since it was written; its SHA-256 is in {listed.name}")
    return [folder / name for name in sorted(names)]


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


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
