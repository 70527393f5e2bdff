"""Proof of an export: a process without archlab loads it, and gives the logits that the model gives.

B batch, T time.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from archlab.data.task import Task
from archlab.errors import ArchlabError
from archlab.interop.exporting.exported_model import ExportedModel
from archlab.modeling.state import max_context
from archlab.ops.dispatch import reference_only
from archlab.storage.tensors import read_tensors, write_tensors

TOLERANCE = 1e-5  # of logits in float32, relative to the largest of them where that is above 1
_TOKENS, _BATCH, _SKIPPED, _LEFT_OUT = 24, 2, 7, 3
_SCRIPT = Path(__file__).with_name("_prove.py")
_TIMEOUT_S = 3600
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """Fixed inputs and the model's logits: of all at once, of a row by itself, and for a stream token by token.

    `padded` are those of a batch whose second row begins with padding, which that row never sees.
    """

    inputs: Mapping[str, Tensor]
    logits: Mapping[str, Tensor]


@torch.no_grad()
def expected_logits(exported: ExportedModel) -> Expected:
    """Run the model itself, in float32, on the reference implementations that an export has."""
    model = exported.load().float()
    inputs = _inputs(exported, model)
    threads = {"num_threads": torch.tensor(torch.get_num_threads())}
    with reference_only():
        # Another batch than that of the whole, and another length where there is one: programs may be made for one.
        is_stream, row = exported.is_stream(), inputs[1:]
        row = (row[:, : max(1, row.shape[1] - _LEFT_OUT)] if is_stream else row).clone()
        logits, given = {"whole": model(inputs)[0], "row": model(row)[0]}, {"inputs": inputs, "row": row, **threads}
        if not is_stream:
            return Expected(given, logits)
        logits |= {"steps": _in_steps(model, inputs)}
        padded, mask = _with_padding(inputs)
        skipped = min(_SKIPPED, inputs.shape[1] - 1)
        logits["padded"] = logits["whole"].clone()
        logits["padded"][1:, skipped:] = model(inputs[1:, skipped:])[0]
        logits["padded"][1:, :skipped] = 0
    return Expected({**given, "steps": torch.ones(1), "padded": padded, "mask": mask}, logits)


def _inputs(exported: ExportedModel, model: nn.Module) -> Tensor:
    if not exported.reads_tokens:
        task: Task = exported.experiment.task.factory()()
        return task.example_inputs(_BATCH, exported.experiment.train.context, "cpu")
    # A model that is not a stream may work only at the task's length.
    length = _TOKENS if exported.is_stream() else exported.experiment.train.context
    limit = max_context(model)
    generator = torch.Generator().manual_seed(0)
    length = length if limit is None else min(length, limit)
    return torch.randint(exported.vocab_size or 1, (_BATCH, length), generator=generator)


def _with_padding(tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
    mask_BT = torch.ones_like(tokens_BT)
    mask_BT[1:, : min(_SKIPPED, tokens_BT.shape[1] - 1)] = 0
    return tokens_BT * mask_BT, mask_BT


def _in_steps(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    state, logits = None, []
    for token_B1 in tokens_BT.split(1, dim=1):
        one, state = model(token_B1, state)
        logits.append(one)
    return torch.cat(logits, dim=1)


def prove(name: str, folder: Path, loader: str, expected: Expected) -> str:
    """Return a line about how an export was proved; raise ArchlabError if it fails, or by how much it differs."""
    settings: dict[str, object] = {}
    exec(compile(loader, f"<loader of {name}>", "exec"), settings)  # definitions alone: it imports inside of functions
    needs = settings.get("NEEDS", ())
    missing = [each for each in needs if find_spec(each) is None] if isinstance(needs, tuple) else []
    if missing:
        _log.warning("%s is written, and not proved: %s is not installed here", name, ", ".join(missing))
        return f"{name}: not proved, without {', '.join(missing)}"
    actual = _run(name, folder, loader, expected)
    tolerance = settings.get("TOLERANCE", TOLERANCE)
    assert isinstance(tolerance, float)
    worst = max(_difference(name, what, actual[what], expected.logits[what], tolerance) for what in actual)
    return f"{name}: {' and '.join(actual)} logits differ by at most {worst:.1e}, without archlab"


def _difference(name: str, what: str, actual: Tensor, expected: Tensor, tolerance: float) -> float:
    if actual.shape != expected.shape:
        raise ArchlabError(f"{name}: its {what} logits have shape {list(actual.shape)}, not {list(expected.shape)}")
    difference = float((actual.double() - expected.double()).abs().max())
    allowed = tolerance * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise ArchlabError(
            f"{name}: its {what} logits differ from the model's by {difference:.2e}, above {allowed:.1e}"
        )
    return difference


def _run(name: str, folder: Path, loader: str, expected: Expected) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "loader.py").write_text(loader, encoding="utf-8")
        write_tensors(place / "inputs", expected.inputs)
        command = [
            sys.executable,
            "-B",
            _SCRIPT,
            place / "loader.py",
            folder.resolve(),
            place / "inputs",
            place / "outputs",
        ]
        # Offline, and with a cache of its own: nothing is left behind, and no name is looked up anywhere.
        own = {"HF_HOME": str(place / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "TOKENIZERS_PARALLELISM": "false"}
        try:
            env, argv = {**os.environ, **own}, list(map(str, command))
            done = subprocess.run(argv, cwd=place, env=env, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise ArchlabError(f"{name}: its proof took longer than {_TIMEOUT_S} s") from error
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise ArchlabError(f"{name}: does not load without archlab: {lines[-1] if lines else 'it was killed'}")
        return read_tensors(place / "outputs")
