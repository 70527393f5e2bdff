"""Whether onnxruntime runs a program on sizes that it was not traced with, and which part of the model does not."""

from __future__ import annotations

from ast import literal_eval
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from torch.export import ExportedProgram

from archlab.errors import ArchlabError, one_line
from archlab.interop.exporting.programs import other_calls

_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"


def require_runs(file: Path, program: ExportedProgram) -> None:
    """Run a program that was written as ONNX; raise ArchlabError naming the part whose operation fails.

    Without onnxruntime nothing is run.
    """
    if find_spec("onnxruntime") is None:
        return
    try:
        for arguments in other_calls(program):
            _run(file, [x.numpy() for x in arguments])
    except Exception as error:  # onnxruntime has a class for each kind of failure, and no common one
        part = _failing_part(file, str(error))
        raise ArchlabError(f"onnx: {part} cannot be run by onnxruntime: {one_line(error)}") from error


def _run(file: Path, arguments: list[np.ndarray]) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors would be printed too
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    session.run(None, dict(zip(names, arguments, strict=True)))


def _failing_part(file: Path, message: str) -> str:
    """Return the module whose code made the node that a message of onnxruntime names."""
    import onnx

    for node in onnx.load(str(file), load_external_data=False).graph.node:
        if node.name and any(quoted.format(node.name) in message for quoted in ("'{}'", "({})")):
            return _part({each.key: each.value for each in node.metadata_props}, f"{node.op_type} {node.name}")
    return "the model"


def _part(metadata: dict[str, str], operation: str) -> str:
    """Return the name and the class of the module that the exporter has written beside a node."""
    # Both from the outermost module to the one that called, and at the end the operation itself.
    names, classes = (list(literal_eval(metadata.get(key, "[]"))) for key in (_SCOPES, _CLASSES))
    if len(names) < 2 or len(classes) != len(names) or not names[-2]:
        return f"the model's {operation}"
    return f"{names[-2]} ({str(classes[-2]).rpartition('.')[2]})"
