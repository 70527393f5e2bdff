"""Files beside a model's programs: how to call them, the state before the first token, and the module that does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archlab.interop.exporting.exported_model import ExportedModel
from archlab.interop.exporting.programs import Programs
from archlab.storage.files import sha256_of, write_bytes, write_text

STATE = "initial_state.bin"
_CALLS = "from archlab.interop.exporting.calls_template import check_files, pieces, read_facts\n"
_LOAD = "from archlab.runtime.private_apis import load_package\n"
_IMPORTS = "import hashlib\nimport json\n"
LOADER = """
NEEDS = {needs}

def load(folder):
    import sys
    sys.path.insert(0, str(folder))
    from {module} import load
    model = load()
    {call}
"""


def write_facts(
    folder: Path, name: str, programs: Programs, written: Sequence[str], further: Mapping[str, Any]
) -> None:
    """Write the state before the first token, and a JSON file: metadata for calls, and checksums of the files."""
    data, described = pack_state(programs.state)
    if described:
        write_bytes(folder / STATE, data)
    names = [*written, *([STATE] if described else [])]
    facts = {
        "format": 1,
        **further,
        "tokens": [programs.shortest, programs.longest],
        "state": described,
        "files": {each: sha256_of(folder / each) for each in names},
    }
    write_text(folder / name, json.dumps(facts, indent=2) + "\n")


def pack_state(state: Mapping[str, Tensor]) -> tuple[bytes, list[dict[str, Any]]]:
    """Return the bytes of all tensors of a state, and where in them each one is."""
    data, described = bytearray(), []
    for name, tensor in state.items():
        begin = len(data)
        data += tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        kind = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        described.append({"name": name, **kind, "bytes": [begin, len(data)]})
    return bytes(data), described


def module_of(model: ExportedModel, kind: str) -> str:
    """Return the name of the module that calls the programs, such as compiled_NAME."""
    return f"{kind}_{model.module.removeprefix('modeling_')}"


def render_calls(model: ExportedModel, template: str, module: str) -> str:
    """Return the source of a module that calls programs, with the functions that it imports of archlab."""
    source, calls = (_read(f"{name}.py") for name in (template, "calls_template"))
    title = model.experiment.name.replace("\\", "/").replace('"', "'")
    head, _, body = source.replace("TITLE", title).replace("MODULE", module).partition("\nfrom pathlib import Path\n")
    first = head.partition("from __future__ import annotations\n")
    head = f"{first[0]}{first[1]}\n{_IMPORTS}{first[2].lstrip()}"
    own = calls.partition("\nFORMAT = ")
    body = re.sub(r"\n{4,}", "\n\n\n", body.replace(_CALLS, "").replace(_LOAD, ""))
    return f"{head.rstrip()}\nfrom pathlib import Path\n{body}\n\nFORMAT = {own[2]}"


def _read(name: str) -> str:
    source = files("archlab.interop.exporting").joinpath(name).read_text(encoding="utf-8")
    return source.removeprefix("# mypy: ignore-errors\n")
