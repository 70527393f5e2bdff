"""A compiled export: what it refuses to run on, and that it gives what the model gives in any batch and length."""

import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import Tiny, needs_compiler
from test_export_formats import publish

import archlab
from archlab import api
from archlab.config.import_file import import_file
from archlab.interop.exporting.export import export
from archlab.interop.exporting.formats.pt2 import _pack


@pytest.fixture
def module() -> ModuleType:
    return import_file(Path(archlab.__file__).parent / "interop/exporting/compiled_template.py", "compiled_checked")


def facts(folder: Path, **changed: Any) -> dict[str, Any]:
    (folder / "model.pt2").write_bytes(b"x")
    own = {"model.pt2": hashlib.sha256(b"x").hexdigest()}
    plain = {
        "format": 1,
        "torch": torch.__version__.partition("+")[0],
        "processor": "P",
        "instructions": [],
        "files": own,
    }
    return plain | changed


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, ""),
        ({"format": 2}, "format 2 is not 1"),
        ({"torch": "1.0"}, r"compiled for torch 1\.0, and this is"),
        ({"instructions": ["avx9"]}, "compiled for P; this processor has no avx9"),
        ({"files": {"model.pt2": "0"}}, r"model\.pt2: has changed since it was written"),
        ({"files": {"../model.pt2": "0"}}, r"has no file '\.\./model\.pt2'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    module: ModuleType, tmp_path: Path, changed: dict[str, Any], problem: str
) -> None:
    if not problem:
        module._check(tmp_path, facts(tmp_path))
        return
    with pytest.raises(RuntimeError, match=problem):
        module._check(tmp_path, facts(tmp_path, **changed))


def test_a_state_is_packed_without_pickle(module: ModuleType) -> None:
    state = {
        "a": torch.arange(6.0).view(1, 2, 3),
        "b": torch.zeros(1, 0, 2),
        "c": torch.tensor([True]),
        "d": torch.ones(1).double(),
    }
    data, described = _pack(state)
    for entry, tensor in zip(described, state.values(), strict=True):
        begin, end = entry["bytes"]
        assert (entry["shape"], end - begin) == (list(tensor.shape), tensor.numel() * tensor.element_size())
    assert json.loads(json.dumps(described)) == described
    assert torch.equal(torch.frombuffer(bytearray(data[:24]), dtype=torch.float32), torch.arange(6.0))


def test_lengths_are_cut_into_calls(module: ModuleType) -> None:
    model = module.CompiledModel.__new__(module.CompiledModel)
    for tokens, length, expected in (
        ([2, None], 9, [9]),
        ([2, 4], 9, [4, 4, 1]),
        ([3, 4], 6, [4, 1, 1]),
        ([2, 4], 1, [1]),
    ):
        model.facts = {"tokens": tokens}
        assert model._pieces(length) == expected


@needs_compiler
@pytest.mark.services
@torch.no_grad()
def test_a_compiled_model_gives_what_the_model_gives(tiny: Tiny, tmp_path: Path) -> None:
    run = publish(tiny(), tmp_path / "run")
    lines: list[str] = []
    out = export(run, tmp_path / "out", ["pt2"], options={"portable": True}, tell=lines.append)
    assert "logits differ by at most" in lines[0]
    compiled, model = import_file(out / "compiled_tiny.py", "compiled_tiny_checked").load(out), api.load_model(run)
    for batch, length in ((1, 1), (1, 31), (3, 40)):
        tokens = torch.randint(256, (batch, length), generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(compiled(tokens)[0], model(tokens)[0], rtol=1e-5, atol=1e-5)
