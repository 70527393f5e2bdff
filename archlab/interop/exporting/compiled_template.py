# mypy: ignore-errors
"""Runs TITLE, compiled ahead of time by AOTInductor, with torch alone.

    from MODULE import load
    model = load()
    logits, state = model(tokens)  # [batch, time]; passing the state back continues the sequence

model.pt2 reads several tokens in a call, token.pt2 one; each holds the weights. Nothing is unpickled.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import torch
from torch import Tensor

from archlab.interop.exporting.calls_template import check_files, pieces, read_facts
from archlab.runtime.private_apis import load_package


def load(folder: str | Path = Path(__file__).parent) -> CompiledModel:
    """Return the compiled model.

    Raises RuntimeError for files that have changed, or were compiled for another torch or processor.
    """
    return CompiledModel(Path(folder))


class CompiledModel:
    """Calls the compiled programs; a state is a tuple of tensors [batch, ...] of fixed sizes."""

    def __init__(self, folder: Path) -> None:
        self.facts = read_facts(folder / "compiled.json")
        check_machine(folder, self.facts)
        check_files(folder, self.facts["files"])
        self._many = load_package(str(folder / "model.pt2"))
        self._one = load_package(str(folder / "token.pt2")) if "token.pt2" in self.facts["files"] else None
        self._initial = read_state(folder, self.facts["state"])

    def init_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Return the state before the first token."""
        return tuple(x.repeat(batch_size, *[1] * (x.dim() - 1)) for x in self._initial)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, state: tuple[Tensor, ...] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits and the state after the last token; without a state the stream starts."""
        if self._one is None:
            return self._many(inputs)[0], ()
        state = self.init_state(len(inputs)) if state is None else state
        logits = []
        for piece in inputs.split(pieces(self.facts["tokens"], inputs.shape[1]), dim=1):
            outputs = (self._one if piece.shape[1] == 1 else self._many)(piece.contiguous(), *state)
            logits.append(outputs[0])
            state = tuple(outputs[1:])
        return torch.cat(logits, dim=1), state


def read_state(folder: Path, described: list) -> list[Tensor]:
    """Return the tensors of a row's state before its first token."""
    data, tensors = bytearray((folder / "initial_state.bin").read_bytes()) if described else b"", []
    for entry in described:
        dtype, (begin, end) = getattr(torch, entry["dtype"]), entry["bytes"]
        values = torch.frombuffer(data[begin:end], dtype=dtype) if end > begin else torch.empty(0, dtype=dtype)
        tensors.append(values.reshape(entry["shape"]))
    return tensors


def check_machine(folder: Path, facts: dict) -> None:
    """Raise RuntimeError, naming the difference, on a machine that the programs were not compiled for."""
    if torch.__version__.split("+")[0] != facts["torch"]:
        raise RuntimeError(f"{folder}: was compiled for torch {facts['torch']}, and this is {torch.__version__}")
    here = f"{sys.platform} {platform.machine()}"
    if here != facts["platform"]:
        raise RuntimeError(f"{folder}: was compiled for {facts['platform']}, and this is {here}")
    missing = sorted(set(facts["instructions"]) - set(instructions().split()))
    if missing:
        raise RuntimeError(
            f"{folder}: was compiled for {facts['processor']}; this processor has no {', '.join(missing)}"
        )


def instructions() -> str:
    """Return the instruction sets of this processor, as Linux reports them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
