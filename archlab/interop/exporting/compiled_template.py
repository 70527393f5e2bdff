# mypy: ignore-errors
"""Runs TITLE, compiled ahead of time by AOTInductor, with torch alone.

    from MODULE import load
    model = load()
    logits, state = model(tokens)  # [batch, time]; passing the state back continues the sequence

model.pt2 reads several tokens in a call, token.pt2 one; each holds the weights. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from archlab.runtime.private_apis import load_package

FORMAT = 1


def load(folder: str | Path = Path(__file__).parent) -> CompiledModel:
    """Return the compiled model.

    Raises RuntimeError for files that have changed, or were compiled for another torch or processor.
    """
    return CompiledModel(Path(folder))


class CompiledModel:
    """Calls the compiled entries; a state is a tuple of tensors [B, ...] of fixed sizes."""

    def __init__(self, folder: Path) -> None:
        self.facts = json.loads((folder / "compiled.json").read_text(encoding="utf-8"))
        _check(folder, self.facts)
        self._many = load_package(str(folder / "model.pt2"))
        if not self.facts["state"]:
            return
        self._one = load_package(str(folder / "token.pt2"))
        data = bytearray((folder / "initial_state.bin").read_bytes())
        self._initial: list[Tensor] = []
        for entry in self.facts["state"]:
            dtype, (begin, end) = getattr(torch, entry["dtype"]), entry["bytes"]
            values = torch.frombuffer(data[begin:end], dtype=dtype) if end > begin else torch.empty(0, dtype=dtype)
            self._initial.append(values.reshape(entry["shape"]))

    def init_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Return the state before the first token."""
        return tuple(x.repeat(batch_size, *[1] * (x.dim() - 1)) for x in self._initial)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits and the state after the last token; without a state the stream starts."""
        if not self.facts["state"]:
            return _call(self._many, (inputs,))[0], ()
        state = self.init_state(len(inputs)) if state is None else state
        logits = []
        for piece in inputs.split(self._pieces(inputs.shape[1]), dim=1):
            outputs = _call(self._one if piece.shape[1] == 1 else self._many, (piece, *state))
            logits.append(outputs[0])
            state = outputs[1:]
        return torch.cat(logits, dim=1), state

    def _pieces(self, length: int) -> list[int]:
        """Return lengths of calls: as long as model.pt2 reads, and one by one what is too short for it."""
        shortest, longest = self.facts["tokens"]
        pieces: list[int] = []
        while length >= shortest:
            pieces.append(length if longest is None else min(length, longest))
            length -= pieces[-1]
        return pieces + [1] * length


def _call(entry, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # A batch of one has no program of its own: it runs twice.
    if len(inputs[0]) > 1:
        return tuple(entry(*inputs))
    return tuple(x[:1].clone() for x in entry(*(x.repeat(2, *[1] * (x.dim() - 1)) for x in inputs)))


def _check(folder: Path, facts: dict) -> None:
    if facts["format"] != FORMAT:
        raise RuntimeError(f"{folder}: format {facts['format']} is not {FORMAT}, which this file reads")
    if torch.__version__.split("+")[0] != facts["torch"]:
        raise RuntimeError(f"{folder}: was compiled for torch {facts['torch']}, and this is {torch.__version__}")
    if missing := sorted(set(facts["instructions"]) - _instructions()):
        raise RuntimeError(
            f"{folder}: was compiled for {facts['processor']}; this processor has no {', '.join(missing)}"
        )
    for name, sha256 in facts["files"].items():
        if Path(name).name != name or not (folder / name).is_file():
            raise RuntimeError(f"{folder}: has no file {name!r}")
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                raise RuntimeError(f"{folder / name}: has changed since it was written")


def _instructions() -> set[str]:
    """Return the instruction sets of this processor, as Linux reports them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return {word for line in lines if line.startswith(("flags", "Features")) for word in line.split(":")[1].split()}
