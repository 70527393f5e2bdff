"""The model: `build` constructs it, `load` loads its weights, and `generate` continues a prompt of tokens."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        weights |= _read_weights(file, str(device))
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
    names = sorted({str(name) for name in _read_entries(index, "weight_map").values()} or {"model.safetensors"})
    known = _read_entries(listed, "files")  # transformers' save_pretrained leaves none
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{folder}: has no file {name!r}")
        if name in known and known[name] != {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}:
            raise ValueError(f"{folder / name}: has changed since it was written; its SHA-256 is in {listed.name}")
    return [folder / name for name in names]


def _read_entries(file: Path, key: str) -> dict[str, Any]:
    """Return an entry of a JSON file that is an object, an empty one if there is no file."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))[key] if file.is_file() else {}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{file}: is damaged: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"{file}: is damaged: {key} is not an object")
    return entries


def _read_weights(file: Path, device: str) -> dict[str, torch.Tensor]:
    try:
        return load_file(file, device=device)
    except Exception as error:  # of safetensors and of the file system, which have no common class
        raise ValueError(f"{file}: is damaged: {error}") from error


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
