"""A model as programs of torch.export with dynamic batch and length: of several tokens, and of one with its state.

B batch, T time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from archlab.config.import_file import import_file
from archlab.data.task import Task
from archlab.errors import ArchlabError, one_line
from archlab.interop.exporting.exported_model import ExportedModel
from archlab.interop.standalone.render import render_model
from archlab.modeling.state import max_context
from archlab.runtime.private_apis import op_namespace
from archlab.storage.files import write_text
from archlab.storage.tensors import copy_into

_BATCH, _TOKENS = 2, 24  # of the example; a dimension cannot be traced at 0 or 1
_SYMBOLIC = ("builtins", "_operator", "math", "torch")  # arithmetic of sizes


@dataclass(frozen=True)
class Programs:
    """The programs by name, `model` and for a stream `token`, with the metadata to call them.

    `state` is that of one row before the first token; it follows the inputs, and the next one the logits. `model` reads
    from `shortest` to `longest` tokens in a call, or any number from `shortest` on where `longest` is None.
    """

    by_name: Mapping[str, ExportedProgram]
    state: Mapping[str, Tensor]
    shortest: int
    longest: int | None


def trace_programs(exported: ExportedModel, format_name: str) -> Programs:
    """Trace a model, in float32.

    Raises ArchlabError, naming the part, for one that cannot be traced or calls an operation outside of ATen.
    """
    try:
        model = _build(exported)
        return _trace_stream(model, exported) if exported.is_stream() else _trace_whole(model, exported)
    except ArchlabError as error:
        raise ArchlabError(f"{format_name}: {error}") from error


def _build(exported: ExportedModel) -> nn.Module:
    """Return the model from its standalone source, which has nothing but torch's own operations."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, f"{exported.module}.py")
        write_text(file, render_model(exported.experiment, exported.tokens))
        model: nn.Module = import_file(file, f"archlab_traced_{exported.module}").build()
    copy_into(model, exported.tensors, exported.checkpoint)
    return model.eval()


def _trace_stream(model: Any, exported: ExportedModel) -> Programs:
    # With room for a stream of any length, so that no shape of the state ever changes.
    state = model.reserve_state(model.init_state(1), None)
    limit = max_context(exported.on_meta())
    tokens = torch.zeros(_BATCH, _TOKENS if limit is None else min(_TOKENS, limit), dtype=torch.int64)
    one = _trace(model, tokens[:, :1], state, dynamic_length=False)
    many = _trace_lengths(model, tokens, state)
    return Programs({"model": many, "token": one}, state, *_lengths(many))


def _trace_lengths(model: nn.Module, tokens: Tensor, state: Mapping[str, Tensor]) -> ExportedProgram:
    """Trace a call on any length, or on this one where the structure of a part depends on it."""
    try:
        return _trace(model, tokens, state, dynamic_length=True)
    except ArchlabError:
        return _trace(model, tokens, state, dynamic_length=False)


def _trace_whole(model: nn.Module, exported: ExportedModel) -> Programs:
    task: Task = exported.experiment.task.factory()()
    inputs = task.example_inputs(_BATCH, exported.experiment.train.context, "cpu")
    program = _trace(model, inputs, {}, dynamic_length=False)
    return Programs({"model": program}, {}, inputs.shape[1], inputs.shape[1])


class _Flat(nn.Module):
    """A model whose state is a list of tensors, in and out."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, inputs: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return logits and the next state."""
        logits, new = self.model(inputs, dict(zip(self.names, state, strict=True)) if self.names else None)
        return (logits, *(new[name].clone() for name in self.names))


@torch.no_grad()
def _trace(model: nn.Module, inputs: Tensor, state: Mapping[str, Tensor], *, dynamic_length: bool) -> ExportedProgram:
    """Trace a call on inputs [B, T] and the state of one row, repeated."""
    rows = _repeat(state.values(), len(inputs))
    batch = {0: Dim.AUTO}
    shapes: dict[str, Any] = {"inputs": {**batch, **({1: Dim.AUTO} if dynamic_length else {})}}
    shapes |= {"state": (batch,) * len(rows)} if rows else {}  # torch.export knows no argument without a value
    flat = _Flat(model, list(state)).eval()
    try:
        program = torch.export.export(flat, (inputs, *rows), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch.export raises whatever the traced code does
        raise ArchlabError(f"{_failing_part(error, model)} cannot be traced: {one_line(str(error))}") from error
    _require_aten(program)
    if any(isinstance(shape[0], int) for shape in _input_shapes(program)):
        raise ArchlabError("the model cannot be traced: its operations depend on the size of the batch")
    _require_sizes(program, flat)
    return program


def _require_sizes(program: ExportedProgram, flat: Callable[..., tuple[Tensor, ...]]) -> None:
    """Raise ArchlabError for a program that is only right for the sizes of its example."""
    # torch.export drops what it assumed of a size, such as min(T, W) == 24, where it has no bounds for that (torch
    # 2.13). Its module can check these, but among them are contiguities, which other sizes break without harm.
    module = program.module(check_guards=False)
    for arguments in other_calls(program):
        sizes, why = list(arguments[0].shape[:2]), "its logits are others"
        try:
            logits = module(*arguments)[0]
        except Exception as error:  # whatever an operation raises at another size
            logits, why = None, one_line(error)
        if logits is None or not torch.allclose(logits, flat(*arguments)[0], rtol=1e-3, atol=1e-3):
            raise ArchlabError(f"the model cannot be traced: it is fixed to sizes, other than inputs {sizes}: {why}")


def other_calls(program: ExportedProgram) -> list[tuple[Tensor, ...]]:
    """Return the inputs and states of calls of other sizes than a program was traced with: one row, and three."""
    (inputs, *state), _ = program.example_inputs
    shortest, longest = _lengths(program)
    short = inputs.shape[1] if shortest == longest else shortest
    one = tuple(x[:1] for x in (inputs, *state))
    return [(one[0][:, :short], *one[1:]), _repeat(one, 3)]


def _repeat(rows: Iterable[Tensor], count: int) -> tuple[Tensor, ...]:
    return tuple(x.repeat(count, *[1] * (x.dim() - 1)) for x in rows)


def _failing_part(error: BaseException, model: nn.Module) -> str:
    """Return the name of the innermost module whose code raised."""
    names = {id(part): name for name, part in model.named_modules() if name}
    part = ""
    for frame in local_variables(error):
        owner = frame.get("self")
        part = names.get(id(owner), part) if isinstance(owner, nn.Module) else part
    return _describe(model, part)


def local_variables(error: BaseException) -> Iterator[Mapping[str, Any]]:
    """Yield the local variables of the frames that an error came through, those of its causes last."""
    seen: BaseException | None = error
    while seen is not None:
        trace = seen.__traceback__
        while trace is not None:
            yield trace.tb_frame.f_locals
            trace = trace.tb_next
        seen = seen.__cause__ or seen.__context__


def _describe(model: nn.Module, part: str) -> str:
    return f"model.{part} ({type(model.get_submodule(part)).__name__})" if part else "the model"


def _require_aten(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        namespace = op_namespace(node.target)
        is_symbolic = getattr(node.target, "__module__", "").partition(".")[0] in _SYMBOLIC
        if namespace != "aten" and not (namespace is None and is_symbolic):
            raise ArchlabError(f"{part_of(node)} calls {node.target}, which is not an operation of ATen")


def part_of(node: Node) -> str:
    """Return the name of the module whose code made a node, with its class."""
    # Modules from the outermost to the one that called, each with its name and its class.
    name, cls = next(reversed((node.meta.get("nn_module_stack") or {"": ("", "")}).values()))
    return f"{name} ({getattr(cls, '__name__', str(cls).rpartition('.')[2])})" if name else "the model"


def _input_shapes(program: ExportedProgram) -> list[Sequence[Any]]:
    """Return the shapes of the inputs and of the state's tensors."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [nodes[name].meta["val"].shape for name in program.graph_signature.user_inputs]


def _lengths(program: ExportedProgram) -> tuple[int, int | None]:
    """Return the shortest and the longest input of a program; both are equal where tracing has fixed the length."""
    size = _input_shapes(program)[0][1]
    # A loop over steps fixes a length that was to be any: its symbol then stands for a number.
    if isinstance(size, int) or size.node.expr.is_Integer:
        return int(size), int(size)
    bounds = program.range_constraints[size.node.expr]
    return max(2, int(bounds.lower)), int(bounds.upper) if bounds.upper.is_Integer else None
