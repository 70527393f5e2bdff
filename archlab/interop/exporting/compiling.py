"""Compilation of an exported module to packages of AOTInductor, with dynamic batch and length.

B batch, T time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from archlab.errors import ArchlabError, one_line
from archlab.runtime.private_apis import compile_package, op_namespace

_BATCH, _TOKENS = 2, 24  # of the example; a dimension cannot be traced at 0 or 1
_SYMBOLIC = ("builtins", "_operator", "math", "torch")  # arithmetic of sizes


@dataclass(frozen=True)
class Entry:
    """A traced program, and the lengths that it reads: `shortest`, and `longest` or None for no bound."""

    program: ExportedProgram
    shortest: int
    longest: int | None


class _Flat(nn.Module):
    """A model whose state is a list of tensors, in and out."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, inputs: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return logits and the next state."""
        if not self.names:
            return (self.model(inputs)[0],)
        logits, new = self.model(inputs, dict(zip(self.names, state, strict=True)))
        return (logits, *(new[name].clone() for name in self.names))


def fixed_state(model: Any) -> dict[str, Tensor]:
    """Return the state of one row before the first token, with room for any length, so that no shape ever changes."""
    state: dict[str, Tensor] = model.reserve_state(model.init_state(1), None)
    return state


@torch.no_grad()
def trace_entry(model: nn.Module, inputs: Tensor, state: Mapping[str, Tensor], *, dynamic_length: bool) -> Entry:
    """Trace a call on inputs [B, T]; raise ArchlabError with what cannot be traced, or is no operation of ATen."""
    repeated = [x.repeat(len(inputs), *[1] * (x.dim() - 1)) for x in state.values()]
    batch = {0: Dim.AUTO}
    shapes = {"inputs": {**batch, **({1: Dim.AUTO} if dynamic_length else {})}, "state": (batch,) * len(repeated)}
    try:
        flat = _Flat(model, list(state)).eval()
        program = torch.export.export(flat, (inputs, *repeated), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export raises whatever the traced code does
        raise ArchlabError(f"pt2: the model cannot be traced: {one_line(error)}") from error
    _require_aten(program)
    return Entry(program, *_lengths(program, dynamic_length))


def _require_aten(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        namespace = op_namespace(node.target)
        is_symbolic = getattr(node.target, "__module__", "").partition(".")[0] in _SYMBOLIC
        if namespace != "aten" and not (namespace is None and is_symbolic):
            raise ArchlabError(f"pt2: the model calls {node.target}, which is no operation of ATen")


def _lengths(program: ExportedProgram, dynamic_length: bool) -> tuple[int, int | None]:
    """Return the shortest and the longest input of a program; both are equal where its length is fixed."""
    inputs = next(node for node in program.graph.nodes if node.op == "placeholder" and node.name.endswith("inputs"))
    size = inputs.meta["val"].shape[1]
    if isinstance(size, int) or not dynamic_length:
        return int(size), int(size)
    bounds = program.range_constraints[size.node.expr]
    longest = int(bounds.upper) if bounds.upper.is_Integer else None
    return max(2, int(bounds.lower)), longest


def trace_entries(model: Any, inputs: Tensor, state: Mapping[str, Tensor], limit: int | None) -> dict[str, Entry]:
    """Return the entries of a model by the names of their files: for several tokens, and one if there is a state."""
    if not state:
        return {"model.pt2": trace_entry(model, inputs, {}, dynamic_length=False)}
    length = _TOKENS if limit is None else min(_TOKENS, limit)
    tokens = inputs[:1, :1].repeat(_BATCH, length)
    many = trace_entry(model, tokens, state, dynamic_length=True)
    return {"model.pt2": many, "token.pt2": trace_entry(model, tokens[:, :1], state, dynamic_length=False)}


def compile_entry(entry: Entry, file: Path, options: Mapping[str, Any]) -> None:
    """Compile an entry to a package; raise ArchlabError with what the compiler says if it cannot."""
    try:
        compile_package(entry.program, file, dict(options))
    except Exception as error:  # of Inductor or of the C++ compiler, which have no common class
        raise ArchlabError(f"pt2: cannot be compiled: {one_line(error)}") from error
