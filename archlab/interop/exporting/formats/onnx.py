"""A model as ONNX, whose state is inputs and outputs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from archlab.errors import ArchlabError, one_line
from archlab.interop.exporting.exported_model import ExportedModel
from archlab.interop.exporting.onnx_run import require_runs
from archlab.interop.exporting.program_files import LOADER, module_of, render_calls, write_facts
from archlab.interop.exporting.programs import Programs, local_variables, part_of, trace_programs
from archlab.storage.files import write_text

_WRITES_WITH = ("onnx", "onnxscript")
_CALL = """
    import torch
    def call(inputs, state):
        logits, state = model(inputs.numpy(), state)
        return torch.from_numpy(logits), state
    return call
"""


class Onnx:
    """model.onnx and token.onnx, with the weights, and the module onnx_NAME.py that calls them with onnxruntime."""

    needs: tuple[str, ...] = ()
    is_alone = False

    def check(self, model: ExportedModel) -> None:
        """Raise ArchlabError for a package that is not installed."""
        missing = [name for name in _WRITES_WITH if find_spec(name) is None]
        if missing:
            raise ArchlabError(f"onnx: needs {' and '.join(missing)}: pip install 'archlab[onnx]'")

    def write(self, model: ExportedModel, folder: Path) -> None:
        """Trace, convert and write the files."""
        programs, module = trace_programs(model, "onnx"), module_of(model, "onnx")
        before = set(folder.iterdir())
        for name, program in programs.by_name.items():
            _convert(program, programs, folder / f"{name}.onnx")
            require_runs(folder / f"{name}.onnx", program)
        written = sorted(file.name for file in set(folder.iterdir()) - before)
        write_facts(folder, "onnx.json", programs, written, {})
        write_text(folder / f"{module}.py", render_calls(model, "onnx_template", module))

    def loader(self, model: ExportedModel) -> str:
        """Return the source that imports the module."""
        return LOADER.format(needs=("torch", "numpy", "onnxruntime"), module=module_of(model, "onnx"), call=_CALL)

    def advice(self, model: ExportedModel, folder: Path) -> str:
        """Return the import."""
        return f"from {module_of(model, 'onnx')} import load  # in {folder}"


def _convert(program: ExportedProgram, programs: Programs, file: Path) -> None:
    """Write a program as ONNX; raise ArchlabError naming the part that has no such operation."""
    try:
        with _without_warnings():
            made = torch.onnx.export(
                program,
                input_names=["inputs", *(f"state.{name}" for name in programs.state)],
                output_names=["logits", *(f"next.{name}" for name in programs.state)],
                dynamo=True,
                verbose=False,
            )
        assert made is not None
        _forget_traces(made.model)
        made.save(file)
    except Exception as error:  # the exporter raises whatever its conversions do
        node = _failing_node(error)
        part = "the model" if node is None else f"{part_of(node)} calls {node.target}, which"
        raise ArchlabError(f"onnx: {part} cannot be written as ONNX: {one_line(_innermost(error))}") from error


def _forget_traces(model: Any) -> None:
    """Remove the exporter's stack traces, which point into a temporary file."""
    for node in model.graph:
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the exporter from telling that it knows no operations of packages that are not installed."""
    earlier = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(earlier)


def _failing_node(error: BaseException) -> Node | None:
    """Return the node that the exporter was at: a local variable of a function that the error came through."""
    found = None
    for frame in local_variables(error):
        node = frame.get("node")
        found = node if isinstance(node, Node) and node.op == "call_function" else found
    return found


def _innermost(error: BaseException) -> BaseException:
    cause = error.__cause__ or error.__context__
    return error if cause is None else _innermost(cause)


FORMAT = Onnx
