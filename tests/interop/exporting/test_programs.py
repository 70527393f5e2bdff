"""Compiled exports: what they refuse to run on, which part cannot be exported, and any batch and length."""

import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tiny, needs_compiler
from test_export_formats import publish

import archlab
from archlab import ArchlabError, api
from archlab.config.experiment import load
from archlab.config.import_file import import_file
from archlab.interop.exporting import calls_template, onnx_run, programs
from archlab.interop.exporting.export import export
from archlab.interop.exporting.exported_model import ExportedModel, read_model
from archlab.interop.exporting.formats.pt2 import Pt2
from archlab.interop.exporting.program_files import pack_state
from archlab.interop.exporting.programs import trace_programs

# One layer: a second one doubles what compiling takes, and adds no other operation.
LAYER = "{mixer: {type: ema, ema: {type: ema, num_dims: 2}}, ffn: {type: mlp, hidden_dim: 32}}"
SMALL = (f"model.layers=[{LAYER}]", "model.dim=16")
EXPORTING = Path(archlab.__file__).parent / "interop/exporting"
PLUGIN = '''
import torch
from torch import Tensor, nn
from archlab import register

@torch.library.custom_op("mine::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return x * 2

@double.register_fake
def _(x):
    return torch.empty_like(x)

@register("ffn", "doubling")
class Doubling(nn.Module):
    """y = 2 x."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return 2 x."""
        return CALL
'''


@pytest.fixture(scope="module")
def compiled() -> ModuleType:
    return import_file(EXPORTING / "compiled_template.py", "compiled_checked")


def facts(compiled: ModuleType, **changed: Any) -> dict[str, Any]:
    machine = Pt2(portable=True)._machine()
    return machine | {"instructions": [], "processor": "P"} | changed


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"torch": "1.0"}, r"compiled for torch 1\.0, and this is"),
        ({"platform": "plan9 vax"}, "compiled for plan9 vax, and this is"),
        ({"instructions": ["avx9", "avx8"]}, "compiled for P; this processor has no avx8, avx9"),
    ],
)
def test_another_machine_is_refused_by_name(compiled: ModuleType, changed: dict[str, Any], problem: str) -> None:
    compiled.check_machine(Path("here"), facts(compiled))
    with pytest.raises(RuntimeError, match=problem):
        compiled.check_machine(Path("here"), facts(compiled, **changed))


def test_what_is_not_as_it_was_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"x")
    calls_template.check_files(tmp_path, {"model.pt2": hashlib.sha256(b"x").hexdigest()})
    with pytest.raises(RuntimeError, match=r"model\.pt2: has changed since it was written"):
        calls_template.check_files(tmp_path, {"model.pt2": "0"})
    with pytest.raises(RuntimeError, match=r"has no file '\.\./model\.pt2'"):
        calls_template.check_files(tmp_path, {"../model.pt2": "0"})
    (tmp_path / "compiled.json").write_text('{"format": 2, "tokens": [], "state": [], "files": {}}')
    with pytest.raises(RuntimeError, match="format 2 is not 1"):
        calls_template.read_facts(tmp_path / "compiled.json")


def test_a_state_is_packed_without_pickle(compiled: ModuleType, tmp_path: Path) -> None:
    state = {
        "a": torch.arange(6.0).view(1, 2, 3),
        "b": torch.zeros(1, 0, 2),
        "c": torch.tensor([True]),
        "d": torch.ones(1).double(),
        "e": torch.full((1,), 7),
    }
    data, described = pack_state(state)
    (tmp_path / "initial_state.bin").write_bytes(data)
    described = json.loads(json.dumps(described))
    read = compiled.read_state(tmp_path, described)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(read, state.values(), strict=True))


@pytest.mark.parametrize(
    ("tokens", "length", "expected"),
    [
        ([2, None], 9, [9]),
        ([2, 4], 9, [3, 3, 3]),
        ([2, 64], 100, [50, 50]),
        ([3, 4], 5, [4, 1]),
        ([17, 32], 33, [32, 1]),
        ([24, 24], 50, [24, 24, 1, 1]),
        ([2, 4], 1, [1]),
        ([2, None], 0, []),
    ],
)
def test_lengths_are_cut_into_calls(tokens: list[Any], length: int, expected: list[int]) -> None:
    found = calls_template.pieces(tokens, length)
    assert sum(found) == length
    assert all(size == 1 or tokens[0] <= size <= (tokens[1] or size) for size in found)
    assert found == expected


def with_part(tiny_file: Path, call: str) -> ExportedModel:
    (tiny_file.parent / "mine.py").write_text(PLUGIN.replace("CALL", call))
    own = tiny_file.with_name("own.yaml")
    own.write_text(f"{tiny_file.read_text()}\nplugins: [mine.py]\n")
    layers = f"model.layers=[{LAYER.partition(', ffn')[0]}, ffn: doubling}}]"
    return read_model(publish(load(own, [layers]), tiny_file.parent / "run"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (
            "double(x_BTD)",
            r"^pt2: model\.blocks\.0\..*\(Doubling\) calls mine\.double\.default, which is not an operation",
        ),
        ("x_BTD if x_BTD.sum() > 0 else -x_BTD", r"^pt2: model\.blocks\.0\..*\(Doubling\) cannot be traced: "),
    ],
)
def test_a_part_that_cannot_be_exported_is_named(tiny_file: Path, call: str, problem: str) -> None:
    model = with_part(tiny_file, call)
    with pytest.raises(ArchlabError, match=problem):
        trace_programs(model, "pt2")


def run_any(call: Any, model: torch.nn.Module, read: Any = lambda x: x) -> None:
    """Compare batches and lengths of all kinds, and a stream that continues."""
    for batch, length in ((1, 1), (1, 31), (3, 40), (2, 70)):
        tokens = torch.randint(256, (batch, length), generator=torch.Generator().manual_seed(length))
        expected = model(tokens)[0]
        first, state = call(read(tokens[:, : length // 2 + 1]), None)
        rest, _ = call(read(tokens[:, length // 2 + 1 :]), state) if length > 1 else (first[:, :0], None)
        whole = np.concatenate((np.asarray(first), np.asarray(rest)), 1)
        torch.testing.assert_close(torch.from_numpy(whole), expected, rtol=1e-5, atol=1e-5)


class Doubled(torch.nn.Module):
    """Returns what a model of two rows, whose number tracing has fixed, would return."""

    def forward(self, x_BT: torch.Tensor) -> tuple[torch.Tensor]:
        return (x_BT * 2,)


@pytest.mark.slow
def test_a_program_that_is_fixed_to_its_example_is_refused() -> None:
    x, auto = torch.arange(12.0).view(2, 6), torch.export.Dim.AUTO
    program = torch.export.export(Doubled(), (x,), dynamic_shapes=({0: auto, 1: auto},), strict=False)
    programs._require_sizes(program, Doubled())
    with pytest.raises(ArchlabError, match=r"fixed to sizes, other than inputs \[1, \d\]: its logits are others"):
        programs._require_sizes(program, lambda x_BT: (x_BT * x_BT.shape[0],))


def test_the_part_of_an_onnx_node_is_named(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Reshape", ["x", "shape"], ["y"], name="node_Reshape_12")
    scopes = {
        "name_scopes": ["", "model.blocks.0", "model.blocks.0.mixer", "view_8"],
        "class_hierarchy": ["m._Flat", "m.Block", "m.Mamba", "aten.view"],
    }
    for name, value in scopes.items():
        node.metadata_props.add(key=f"pkg.torch.onnx.{name}", value=repr(value))
    graph = onnx.helper.make_graph([node], "graph", [], [])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "model.onnx"))
    part = onnx_run._failing_part(tmp_path / "model.onnx", "while running Reshape node. Name:'node_Reshape_12' Status")
    assert part == "model.blocks.0.mixer (Mamba)"
    assert onnx_run._failing_part(tmp_path / "model.onnx", "Name:'node_Reshape_1'") == "the model"


@needs_compiler
@pytest.mark.services
@torch.no_grad()
def test_a_compiled_model_gives_what_the_model_gives(tiny: Tiny, tmp_path: Path) -> None:
    run = publish(tiny(*SMALL), tmp_path / "run")
    lines: list[str] = []
    out = export(run, tmp_path / "out", ["pt2"], options={"portable": True}, tell=lines.append)
    assert "row and steps and whole logits differ by at most" in lines[0]
    run_any(import_file(out / "compiled_tiny.py", "compiled_tiny_checked").load(out), api.load_model(run))


@pytest.mark.services
@torch.no_grad()
def test_an_onnx_model_gives_what_the_model_gives(tiny: Tiny, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    run = publish(tiny(*SMALL), tmp_path / "run")
    lines: list[str] = []
    out = export(run, tmp_path / "out", ["onnx"], tell=lines.append)
    assert "row and steps and whole logits differ by at most" in lines[0]
    module = import_file(out / "onnx_tiny.py", "onnx_tiny_checked")
    run_any(module.load(out), api.load_model(run), lambda tokens: tokens.numpy())


@pytest.mark.services
@pytest.mark.parametrize("name", ["deit_tiny", "megalodon_digits_tiny"])
def test_a_classifier_has_one_program(name: str, tmp_path: Path) -> None:
    """Of images, and of tokens, whose number is that of the task: neither reads a stream."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    run = publish(load(name, ["model.layers[0].repeat=1"]), tmp_path / "run")
    lines: list[str] = []
    out = export(run, tmp_path / "out", ["onnx"], tell=lines.append)
    assert "row and whole logits differ by at most" in lines[0]
    assert not (out / "token.onnx").exists()
