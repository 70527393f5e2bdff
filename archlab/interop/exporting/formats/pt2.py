"""A model compiled ahead of time by AOTInductor for this processor, which torch alone runs."""

from __future__ import annotations

import inspect
import json
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archlab.config.import_file import import_file
from archlab.data.task import Task
from archlab.errors import ArchlabError
from archlab.interop.exporting.compiling import Entry, compile_entry, fixed_state, trace_entries
from archlab.interop.exporting.exported_model import ExportedModel
from archlab.interop.standalone.render import render_model
from archlab.modeling.state import max_context
from archlab.runtime.cpu_info import cpu_flags, cpu_name
from archlab.runtime.private_apis import load_package
from archlab.runtime.toolchain import has_cpp_compiler
from archlab.storage.files import sha256_of, write_bytes, write_text
from archlab.storage.tensors import copy_into

# What a compiler may use on x86 and on Arm, by the names of /proc/cpuinfo.
_INSTRUCTIONS = (
    "sse",
    "ssse",
    "avx",
    "fma",
    "f16c",
    "bmi",
    "amx",
    "movbe",
    "abm",
    "gfni",
    "vaes",
    "asimd",
    "sve",
    "bf16",
)
_PORTABLE = ("avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm")  # x86-64-v3
_PORTABLE_OPTIONS = {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}
_IMPORT = "\nfrom archlab.runtime.private_apis import load_package\n"
_LOADER = """
NEEDS = ("torch",)

def load(folder):
    import sys
    sys.path.insert(0, str(folder))
    from {module} import load
    return load()
"""


class Pt2:
    """model.pt2 and token.pt2, with the weights, and the module compiled_NAME.py that calls them with torch alone.

    Args:
        portable: Compile for every processor with AVX2 rather than for this one.
    """

    needs: tuple[str, ...] = ()
    is_alone = False

    def __init__(self, *, portable: bool = False) -> None:
        self.portable = portable

    def check(self, model: ExportedModel) -> None:
        """Raise ArchlabError without a C++ compiler."""
        if not has_cpp_compiler():
            raise ArchlabError("pt2: needs a C++ compiler, such as g++")

    def write(self, model: ExportedModel, folder: Path) -> None:
        """Trace, compile and write the files."""
        built = _build(model)
        state = fixed_state(built) if model.is_stream() else {}
        task: Task = model.experiment.task.factory()()
        inputs = (
            torch.zeros(2, 2, dtype=torch.int64)
            if state
            else task.example_inputs(2, model.experiment.train.context, "cpu")
        )
        entries = trace_entries(built, inputs, state, max_context(model.on_meta()))
        for name, entry in entries.items():
            compile_entry(entry, folder / name, _PORTABLE_OPTIONS if self.portable else {})
        data, described = _pack(state)
        written = list(entries)
        if state:
            write_bytes(folder / "initial_state.bin", data)
            written.append("initial_state.bin")
        facts = self._facts(entries["model.pt2"], described)
        facts["files"] = {name: sha256_of(folder / name) for name in written}
        write_text(folder / "compiled.json", json.dumps(facts, indent=2) + "\n")
        write_text(folder / f"{_module(model)}.py", _render(model))

    def _facts(self, entry: Entry, state: list[dict[str, Any]]) -> dict[str, Any]:
        own = [flag for flag in cpu_flags() if flag.startswith(_INSTRUCTIONS)]
        return {
            "format": 1,
            "torch": torch.__version__.partition("+")[0],
            "processor": "every processor with AVX2" if self.portable else cpu_name(),
            "instructions": sorted(_PORTABLE if self.portable else own),
            "tokens": [entry.shortest, entry.longest],
            "state": state,
        }

    def loader(self, model: ExportedModel) -> str:
        """Return the source that imports the module."""
        return _LOADER.format(module=_module(model))

    def advice(self, model: ExportedModel, folder: Path) -> str:
        """Return the import."""
        return f"from {_module(model)} import load  # in {folder}"


def _module(model: ExportedModel) -> str:
    return f"compiled_{model.module.removeprefix('modeling_')}"


def _build(model: ExportedModel) -> nn.Module:
    """Return the model from its standalone source, which has nothing but torch's own operations."""
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, f"{model.module}.py")
        write_text(file, render_model(model.experiment, model.tokens))
        built: nn.Module = import_file(file, f"archlab_compiled_{model.module}").build()
    copy_into(built, model.tensors, model.checkpoint)
    return built.eval()


def _pack(state: dict[str, Tensor]) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the bytes of all tensors of a state, and where in them each one is."""
    data, described = bytearray(), []
    for name, tensor in state.items():
        begin = len(data)
        data += tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        kind = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        described.append({"name": name, **kind, "bytes": [begin, len(data)]})
    return bytes(data), described


def _render(model: ExportedModel) -> str:
    source = files("archlab.interop.exporting").joinpath("compiled_template.py").read_text(encoding="utf-8")
    title = model.experiment.name.replace("\\", "/").replace('"', "'")
    source = source.removeprefix("# mypy: ignore-errors\n").replace("TITLE", title).replace("MODULE", _module(model))
    own = inspect.getsource(load_package).replace("Callable[..., Any]", "object")
    return source.replace(_IMPORT, "") + f"\n\n{own}"


FORMAT = Pt2
