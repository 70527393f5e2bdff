"""A model compiled ahead of time by AOTInductor for this processor, which torch alone runs."""

from __future__ import annotations

import inspect
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from archlab.errors import ArchlabError, one_line
from archlab.interop.exporting.exported_model import ExportedModel
from archlab.interop.exporting.program_files import LOADER, module_of, render_calls, write_facts
from archlab.interop.exporting.programs import trace_programs
from archlab.runtime.cpu_info import cpu_flags, cpu_name
from archlab.runtime.private_apis import compile_package, load_package
from archlab.runtime.toolchain import has_cpp_compiler
from archlab.storage.files import write_text

# Those that a compiler may use, by the names of /proc/cpuinfo on x86 and on Arm; others are of the system alone.
_INSTRUCTIONS = ("sse", "ssse", "avx", "fma", "f16c", "bmi", "amx", "movbe", "abm", "gfni", "vaes", "asimd", "sve")
_PORTABLE = ("avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm")  # x86-64-v3
_PORTABLE_OPTIONS = {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}
# As many threads as where it runs, not as here.
_OPTIONS: dict[str, Any] = {"cpp.dynamic_threads": True}


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
        """Raise ArchlabError without a C++ compiler, or for a portable program of a processor that is no x86."""
        if not has_cpp_compiler():
            raise ArchlabError("pt2: needs a C++ compiler, such as g++")
        if self.portable and platform.machine() not in ("x86_64", "AMD64"):
            raise ArchlabError(f"pt2: portable is for processors with AVX2, and this is {platform.machine()}")

    def write(self, model: ExportedModel, folder: Path) -> None:
        """Trace, compile and write the files."""
        programs, module = trace_programs(model, "pt2"), module_of(model, "compiled")
        options = _OPTIONS | (_PORTABLE_OPTIONS if self.portable else {})
        for name, program in programs.by_name.items():
            _compile(program, folder / f"{name}.pt2", options)
        written = [f"{name}.pt2" for name in programs.by_name]
        write_facts(folder, "compiled.json", programs, written, self._machine())
        source = render_calls(model, "compiled_template", module)
        own = inspect.getsource(load_package).replace("Callable[..., Any]", "object")
        write_text(folder / f"{module}.py", f"{source}\n\n{own}")

    def _machine(self) -> dict[str, Any]:
        own = [flag for flag in cpu_flags() if flag.startswith(_INSTRUCTIONS)]
        return {
            "torch": torch.__version__.partition("+")[0],
            "platform": f"{sys.platform} {platform.machine()}",
            "processor": "processors with AVX2" if self.portable else cpu_name(),
            "instructions": sorted(_PORTABLE if self.portable else own),
        }

    def loader(self, model: ExportedModel) -> str:
        """Return the source that imports the module."""
        return LOADER.format(needs=("torch",), module=module_of(model, "compiled"), call="return model")

    def advice(self, model: ExportedModel, folder: Path) -> str:
        """Return the import."""
        return f"from {module_of(model, 'compiled')} import load  # in {folder}"


def _compile(program: ExportedProgram, file: Path, options: dict[str, Any]) -> None:
    try:
        compile_package(program, file, dict(options))
    except Exception as error:  # of Inductor or of the C++ compiler, which have no common class
        raise ArchlabError(f"pt2: {file.name} cannot be compiled: {one_line(str(error))}") from error


FORMAT = Pt2
